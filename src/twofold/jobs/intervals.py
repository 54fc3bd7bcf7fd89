"""The intervals of a prediction: its figures are computed as points, and widened here by what the validation
says of predictions that stand where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twofold.devices.base import Device
from twofold.devices.roofline import Roofline
from twofold.devices.uncertainty import Quantity, Spread, Standing, confidence_of, shipped, spread
from twofold.report.schema import Figure, LatencyName, Result

_LATENCIES: dict[LatencyName, Quantity] = {"ttft": "ttft", "tpot": "tpot", "itl": "tpot", "e2e": "e2e"}
_OTHERS: dict[str, Quantity] = {
    "tokens_per_s": "throughput",
    "achieved_gb_s": "throughput",
    "achieved_gflop_s": "throughput",
    "energy_per_token": "energy",
}
_FIGURES: dict[str, Quantity] = {str(name): quantity for name, quantity in _LATENCIES.items()} | _OTHERS
_AS_MODEL = ("dense", "stored", "auto")


def standing_of(device: Device, precision: str, tokens: float = 0.0, context: float = 0.0) -> Standing:
    """Where a prediction on `device` stands. precision: of the products, or the format of the weights; tokens
    in flight, context of a sequence: 0 where unknown."""
    kind, generation = str(getattr(device, "kind", "machine")), ""
    if isinstance(device, Roofline):
        kind, generation = device.file.kind, device.file.generation
    return Standing(device.confidence, kind, generation, device.name, precision, tokens, context)


def precision_in(derived: Mapping[str, Any], params: Iterable[Mapping[str, Any]]) -> str:
    """What products are computed in, or the format of the weights where that is narrower. derived: what the
    engine decided; params: of the techniques."""
    formats = [used["format"] for used in params if "format" in used]
    weights = derived.get("weights", "auto")
    if weights not in _AS_MODEL:
        formats.append(weights)
    return str(formats[0] if formats else derived.get("precision", ""))


def precision_of(result: Result) -> str:
    """`precision_in` a result."""
    return precision_in(result.derived, [use.params for use in result.techniques])


def with_intervals(result: Result, device: Device) -> Result:
    """`result`, a prediction on `device`, with intervals and the label that the validation gives it."""
    load = result.workload
    standing = standing_of(
        device, precision_of(result), load.concurrency or 0.0, load.prompt_tokens + load.output_tokens
    )
    found = {quantity: spread(quantity, standing) for quantity in {*_FIGURES.values()}}
    changes: dict[str, Any] = {
        name: widened(figure, found[quantity])
        for name, quantity in _FIGURES.items()
        if (figure := result.figure(name)) is not None
    }
    if result.prefill_tokens_per_s is not None:  # a rate whose time is that to the first token
        changes["prefill_tokens_per_s"] = widened(result.prefill_tokens_per_s, inverse(found["ttft"]))
    changes["percentiles"] = {
        name: {share: widened(figure, found[_LATENCIES[name]]) for share, figure in values.items()}
        for name, values in result.percentiles.items()
    }
    return result.model_copy(
        update={**changes, "confidence": confidence_of(standing), "intervals": told(found)}
    )


def widened(figure: Figure, by: Spread) -> Figure:
    """`figure` with the interval `by` around its middle."""
    low, high = figure.mid * by.low, figure.mid * by.high
    return Figure(low=min(low, figure.mid), mid=figure.mid, high=max(high, figure.mid), unit=figure.unit)


def inverse(by: Spread) -> Spread:
    """The interval of a rate, given that of its time."""
    return Spread(1 / by.high, 1 / by.low, by.steps)


def told(found: Mapping[Quantity, Spread]) -> str:
    """What the intervals are, and which steps away from measured cases widened them (all figures or some)."""
    by_step: dict[str, list[str]] = {}
    for quantity, each in sorted(found.items()):
        for step in each.steps:
            by_step.setdefault(step, []).append(quantity)
    everywhere = len(found)
    steps = [
        step if len(names) == everywhere else f"{step} ({', '.join(names)})"
        for step, names in by_step.items()
    ]
    level = f"{shipped().level * 100:.0f} % intervals from the residuals of `twofold validate`"
    return level + (f", widened for {', '.join(steps)}" if steps else "")
