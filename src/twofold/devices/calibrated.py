"""A processor that was measured point by point: rates are read from the curves of its device file.

An op takes the larger of computing and streaming, plus the share of the smaller that the larger does not
hide, plus what calling it costs. Weights stream at the bandwidth of the working set that the deployed plan
makes (`resident_bytes`), activations at that of their own size.
"""

from __future__ import annotations

from collections.abc import Mapping

from twofold.devices.curves import Curve
from twofold.devices.links import Group
from twofold.devices.roofline import Roofline
from twofold.devices.schema import DeviceFile
from twofold.ops.attention import Attention
from twofold.ops.base import Cost, Op, Precision
from twofold.ops.linear import ExpertMLP, Linear


class Calibrated(Roofline):
    """A device whose file holds curves; see `devices.schema.Curves`."""

    def __init__(
        self,
        file: DeviceFile,
        groups: Mapping[str, Group] | None = None,
        *,
        ranks: int = 1,
        num_devices: int = 1,
    ) -> None:
        assert file.curves is not None, f"{file.name} has no curves"
        self._curves = file.curves
        self._read = Curve.bandwidth(file.curves.read)
        self._by_rows = {p: Curve.rate(points) for p, points in file.curves.matmul.items()}
        super().__init__(file, groups, ranks=ranks, num_devices=num_devices)

    def stream_bandwidth(self, nbytes: int) -> float:
        """Bytes/s at which a working set of `nbytes` was read."""
        return self._read(nbytes)

    def roofs(self) -> tuple[dict[str, float], dict[str, float]]:
        """The measured bandwidths of memory and cache, and the best FLOP/s by precision."""
        read, matmul = self._curves.read, self._curves.matmul
        reads = {"memory": read[-1][1], "cache": max(y for _, y in read)}
        return reads, {p: max(y for _, y in points) for p, points in matmul.items()}

    def _overhead_of(self, op: Op) -> float:
        return self._curves.op.get(op.kind, self._overhead)

    def _product_seconds(self, op: Op, cost: Cost, used: Precision, peak: float) -> float:
        if isinstance(op, Attention):
            return cost.flop / self._curves.attention_flops
        curve = self._by_rows.get(used)
        return cost.flop / (peak if curve is None else curve(_rows(op)))

    def _stream_of(self, op: Op) -> float:
        if not isinstance(op, Attention):
            return self._stream
        near, twice = self._curves.attention_read, self._curves.attention_gathers
        return 1.0 / (1.0 / self._stream + 1.0 / near) if twice else min(self._stream, near)

    def _activations(self, nbytes: float) -> tuple[float, float]:
        return (nbytes / self._read(nbytes) if nbytes else 0.0), nbytes * self._cache_energy


def _rows(op: Op) -> float:
    """Rows of activations that one matrix meets."""
    if isinstance(op, Linear):
        return op.tokens
    if isinstance(op, ExpertMLP):
        return max(1.0, op.pairs / max(op.touched, 1.0))
    return 1.0
