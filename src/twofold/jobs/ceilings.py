"""What bounds the ops of a finished engine: the roofs of its device, and the I/O bound of attention there."""

from __future__ import annotations

from twofold.devices.roofline import Roofline
from twofold.engine.engine import Engine
from twofold.models.weights import ACT_BYTES
from twofold.ops.io_bound import intensity_bound
from twofold.report.schema import Ceilings


def ceilings(engine: Engine) -> Ceilings | None:
    """The roofs of a device that has some; a machine that maps ops in its own way has none to draw."""
    device = engine.device
    if not isinstance(device, Roofline):
        return None
    reads, peaks = device.roofs()
    return Ceilings(
        gb_s={level: rate / 1e9 for level, rate in reads.items()},
        gflop_s={precision: rate / 1e9 for precision, rate in peaks.items()},
        attention_intensity=_attention_intensity(engine, device),
        source=f"{device.name}, {device.confidence}",
    )


def _attention_intensity(engine: Engine, device: Roofline) -> float | None:
    """FLOP per byte; None where the cache is unknown or nothing attends."""
    model, cache = engine.runner.model, device.file.cache
    if cache is None or not model.caches:
        return None
    size = ACT_BYTES[model.precision]
    return intensity_bound(model.caches[0].heads.head_dim, int(cache.capacity.value / size)) / size
