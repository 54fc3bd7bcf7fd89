"""From samples to the accuracy report."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.devices.uncertainty import Table, shipped
from twofold.report.accuracy import Accuracy
from twofold.validate.group import Group
from twofold.validate.intervals import contained, cross_validated
from twofold.validate.run import Collected
from twofold.validate.statistics import ORDER, rows, share


def accuracy(found: Collected, groups: Sequence[Group], table: Table | None = None) -> Accuracy:
    """The errors of everything that was collected, and how often the intervals (of `table`, default: those of
    the package) contained what was measured."""
    table = table or shipped()
    samples = found.samples
    covered = contained(samples, table)
    crossed = cross_validated(samples)
    held_out: dict[str, list[bool | None]] = {}
    for answer, sample in zip(crossed, samples, strict=True):
        if not sample.fitted:
            held_out.setdefault(sample.quantity, []).append(answer)
    return Accuracy(
        rows=rows(samples, covered, crossed, {group.NAME: group.TITLE for group in groups}),
        data=found.folder.name if found.folder else "",
        held_out_coverage={
            name: part for name in ORDER if (part := share(held_out.get(name, []))) is not None
        },
        absent={name: list(files) for name, files in found.absent.items()},
        left_out=found.left_out,
        failed=found.failed,
        unknown=[path.name for path in found.unknown],
    )
