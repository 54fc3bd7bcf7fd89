"""Why figures of a load may be those of the generator, or of another load than was asked for."""

from __future__ import annotations

from twofold.loadgen.session import Point
from twofold.report import units

_LATE = 0.005
"""Seconds of lag that are worth a warning, and the share of TTFT that is."""
_LATE_SHARE = 0.05
_BUSY = 0.8
"""Share of a processor from which on the generator may measure itself."""


def doubts(point: Point) -> list[str]:
    """A sentence for each; none where all is well."""
    m, found = point.measured, []
    ttft = m.latencies.get("ttft")
    most = max(_LATE, _LATE_SHARE * ttft.p50 if ttft else 0.0)
    if m.lag is not None and m.lag.p99 > most:
        found.append(
            f"{point.name}: the generator was late itself: 1 % of the requests were sent "
            f"{units.seconds(m.lag.p99)} or more after their time, so the load was not the one asked for"
        )
    late = m.generator.late
    if late is not None and late.p99 > most:
        found.append(
            f"{point.name}: the generator's clock was late by {units.seconds(late.p99)} (99 %): times may be "
            "too long by as much"
        )
    if m.seconds and m.generator.cpu / m.seconds > _BUSY:
        found.append(
            f"{point.name}: the generator used {units.percent(m.generator.cpu / m.seconds)} of a processor: "
            "it may have held the load back"
        )
    if m.short:
        found.append(f"{point.name}: {m.short} of {m.completed} answers are shorter than asked for")
    if point.ran_out:
        found.append(
            f"{point.name}: all {m.sent} prepared requests were sent before the duration was over; "
            "raise --requests"
        )
    return found
