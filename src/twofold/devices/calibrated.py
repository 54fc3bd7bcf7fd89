"""A processor that was measured kernel by kernel: rates are read from the curves of its device file.

A product takes the larger of computing and streaming its weights, plus the share of the smaller that the
larger does not hide, plus what calling it costs. Weights stream at the bandwidth of the working set that all
weights of the model make, since every step goes through them once. Attention takes what its sequences with
one query take to read their cache, and what the others take to compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log

from twofold.devices.base import LOCAL_CACHE_TOKENS, LOCAL_STEP_TOKENS
from twofold.devices.calibration import AttentionCurve, OpCost, own_name, product_name
from twofold.devices.curves import Curve
from twofold.devices.links import Group
from twofold.devices.roofline import Roofline
from twofold.devices.schema import DeviceFile
from twofold.ops.attention import Attention, CacheWrite
from twofold.ops.base import DEVICE, Cost, Op, Precision
from twofold.ops.elementwise import Sample
from twofold.ops.formats import format_names, get_format
from twofold.ops.linear import ExpertMLP, Linear

PARTITION = 256
"""Keys of a part of a context that native attention gives to one thread (kPartition in csrc/step.h)."""

RECORDED_TOKENS = 128
"""Tokens up to which a step is taken to be replayed from a recording. The device `cpu` records longer ones as
well where they come again, but has room for few of them, and prompts rarely have equal lengths."""


class Calibrated(Roofline):
    """A device whose file holds curves; see `devices.calibration.Curves`. Limits that a plan leaves open are
    those of the device `cpu`, for which it stands. Energy is that of the roofline of the same file."""

    step_tokens = LOCAL_STEP_TOKENS
    cache_tokens = LOCAL_CACHE_TOKENS

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
        self._products = {
            name: [(log(c.size), Curve.rate(c.rate)) for c in curves]
            for name, curves in file.curves.products.items()
        }
        self._cache_curves = {
            name: (found, Curve.bandwidth(found.read), Curve.rate(found.queries))
            for name, found in file.curves.attention.items()
        }
        self._kinds = {
            name: (found.call, Curve(*zip(*found.rate, strict=True)))
            for name, found in file.curves.kinds.items()
        }
        self._own: dict[str, OpCost | None] = {**file.curves.own}
        self._threads = int(file.units.count.value)
        super().__init__(file, groups, ranks=ranks, num_devices=num_devices)

    def stream_bandwidth(self, nbytes: int) -> float:
        """Bytes/s at which a working set of `nbytes` was read."""
        return self._read(nbytes)

    def roofs(self) -> tuple[dict[str, float], dict[str, float]]:
        """The measured bandwidths of memory and cache, and the best FLOP/s by format of the weights."""
        read, products = self._curves.read, self._curves.products
        reads = {"memory": read[-1][1], "cache": max(y for _, y in read)}
        return reads, {name: max(y for c in curves for _, y in c.rate) for name, curves in products.items()}

    def _near(self, op: Op, cost: Cost, used: Precision, peak: float) -> tuple[float, str]:
        """Seconds by the measured curves; kinds of ops that were not measured take what the roofline says."""
        if isinstance(op, Linear | ExpertMLP) and cost.flop:
            seconds, bound = self._multiply(op, cost)
        elif (own := self._own_cost(op)) is not None:
            return own.seconds(op, cost)
        elif isinstance(op, Attention):
            seconds, bound = self._attend(op, cost)
        elif isinstance(op, Sample):
            seconds, bound = op.rows * self._curves.sequence, "overhead"
        elif op.kind in self._kinds:
            call, rate = self._kinds[op.kind]
            moved = cost.bytes_moved
            busy = moved / rate(moved) if moved else 0.0
            seconds, bound = call + busy, "memory" if busy > call else "overhead"
        else:
            return super()._near(op, cost, used, peak)
        if getattr(op, "tokens", 0) > RECORDED_TOKENS:
            seconds += self._curves.unrecorded
        return seconds, bound

    def _activation_joules(self, nbytes: float) -> float:
        return nbytes * self._energy.cache

    def _multiply(self, op: Linear | ExpertMLP, cost: Cost) -> tuple[float, str]:
        """Seconds of a product, and what bounds it."""
        weights = sum(t.read for t in cost.traffic if t.role == "weights" and t.space == DEVICE)
        stream = weights / self._stream
        rows = op.tokens if isinstance(op, Linear) else max(1.0, op.pairs / max(op.touched, 1.0))
        compute = cost.flop / self._product_rate(op, rows)
        busy = max(compute, stream) + self._curves.exposed * min(compute, stream)
        return busy + self._curves.call, "compute" if compute > stream else "memory"

    def _product_rate(self, op: Linear | ExpertMLP, rows: float) -> float:
        """FLOP/s between the two sizes of matrices that were measured nearest to the op's."""
        curves = self._product_curves(product_name(op))
        size = log(op.in_features * op.out_features if isinstance(op, Linear) else op.hidden * op.ffn)
        (first, low), (last, top) = curves[0], curves[-1]
        if size <= first or len(curves) == 1:
            return low(rows)
        share = min(1.0, (size - first) / (last - first))
        return float(low(rows) ** (1.0 - share) * top(rows) ** share)

    def _product_curves(self, name: str) -> list[tuple[float, Curve]]:
        """The curves of products called `name`: their own, else the nearest measured ones': of the same type
        and precision before others, blocks for blocks, then by width."""
        found = self._products.get(name)
        if found is None:
            kind, fmt, precision = _parts(name)
            wanted = get_format(fmt)

            def distance(other: str) -> tuple[bool, bool, bool, float]:
                other_kind, other_format, other_precision = _parts(other)
                theirs = get_format(other_format)
                return (
                    other_kind != (kind if kind in kinds else ""),
                    other_precision != precision,
                    (theirs.block > 1) != (wanted.block > 1),
                    abs(theirs.bits_per_element - wanted.bits_per_element),
                )

            # Formats of techniques are known where these are in use; elsewhere none of them is wanted.
            known = [other for other in self._products if _parts(other)[1] in format_names()]
            kinds = {_parts(other)[0] for other in known}
            found = self._products[name] = self._products[min(known, key=distance)]
        return found

    def _own_cost(self, op: Op) -> OpCost | None:
        """What was measured for an op that a technique brings with it: for its own way of storing entries, or
        for another; None for the ops of a plain model and for what was not measured."""
        name = own_name(op)
        if name not in self._own:
            kind, _, stored = name.partition(":")
            if type(op) in (Attention, CacheWrite):  # a way of storing entries is all that is special
                kind = f"{kind}:{stored.partition('-')[0]}-"
            near = [other for other in self._curves.own if other.startswith(kind)] if stored else []
            self._own[name] = self._curves.own[near[0]] if near else None
        return self._own[name]

    def _attend(self, op: Attention, cost: Cost) -> tuple[float, str]:
        """Seconds of attention, and what bounds it."""
        curve, read, rate = self._attention_curve(op.format)
        totals = op.totals
        several = totals.num_seqs - totals.singles
        alone = totals.single_keys / totals.keys if totals.keys else 0.0
        # As many layers as this op stands for read as much; a step comes back to a byte after all others.
        near = read(self.resident_bytes + max(1, self._repeat * op.cache_bytes))
        reading = alone * (op.cache_bytes / near + op.widen_flop * curve.widen)
        if not curve.gathers and totals.singles:
            # A thread takes a part of a sequence's key-value head as a whole; few parts may leave some idle.
            parts = -(-totals.single_keys // (totals.singles * PARTITION))
            items = totals.singles * parts * op.kv_heads
            reading *= -(-items // self._threads) * self._threads / items
        computing = 0.0
        if several:
            share = (totals.pairs - totals.single_keys) / totals.pairs
            computing = share * cost.flop / rate((totals.queries - totals.singles) / several)
            computing += (1.0 - alone) * op.widen_flop * curve.widen
            if curve.gathers:
                reading += (1.0 - alone) * op.cache_bytes / near
        seconds = curve.call + totals.num_seqs * curve.sequence + reading + computing
        return seconds, "compute" if computing > reading else "memory"

    def _attention_curve(self, format: str) -> tuple[AttentionCurve, Curve, Curve]:
        """What was measured for a cache format, for another of the same family ("kivi-2" for "kivi-8"), or
        for the device's own."""
        if format not in self._cache_curves:
            family = format.partition("-")[0]
            same = [name for name in self._cache_curves if name.partition("-")[0] == family]
            format = same[0] if same else self.cache_format or ""
        return self._cache_curves[format]


def _parts(name: str) -> tuple[str, str, str]:
    """Type, format and precision of a product's name."""
    kind, _, rest = name.rpartition("/")
    fmt, _, precision = rest.partition(":")
    return kind, fmt, precision
