"""Seconds of matrix products: output tiles in waves over the units of a device, beside what its memory
streams.

A library computes a [rows, depth] × [depth, cols] product tile by tile, one tile per unit at a time. So edges
are padded (tile quantisation), the last wave may leave units idle (wave quantisation), and where tiles are
few the depth is split among several units (split-K; stream-K is its limit, Osama et al., arXiv:2301.03598),
which then have to be merged. A tile takes the longest of multiplying, of being fed from the cache and of
widening packed weights, plus the ramp of its pipeline. Matrix units multiply all rows of a tile, vector units
(fp32) only those that there are. Meanwhile memory streams the operands once. The tile shape and split with
the least time count, as a library's heuristics would choose.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, inf

from pydantic import Field

from twofold.devices.efficiency.kernels import USUAL, Kernels
from twofold.devices.efficiency.machine import Machine
from twofold.devices.figures import (
    Bandwidth,
    Count,
    ElementRate,
    EnergyPerFlop,
    Figure,
    Ratio,
    Seconds,
    Strict,
)
from twofold.ops.base import Precision
from twofold.ops.formats import get_format
from twofold.ops.linear import BitPlaneLinear, ExpertMLP, Linear

_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Parts that the depth may be split in."""
_WIDTH: dict[Precision, float] = {
    "fp64": 8,
    "fp32": 4,
    "tf32": 4,
    "fp8": 1,
    "int8": 1,
    "fp6": 0.75,
    "fp4": 0.5,
    "int4": 0.5,
    "int1": 0.125,
}
"""Bytes of an operand in the precision of the product; two where it is not named."""
_HALF = 2.0


def is_narrow(precision: Precision) -> bool:
    """Whether operands of the products have fewer than 16 bits."""
    return _WIDTH.get(precision, _HALF) < _HALF


class ProductEfficiency(Strict):
    """How matrix products use a device.

    matrix: share of the peak matrix rate while a tile goes over the depth; narrow: share of that which
    products of fewer than 16 bits keep, as scaling and longer sums take their time; memory, cache: share of
    the peak bandwidth at which weights stream from memory, and from the last cache where they stay there;
    overlap: exponent of the norm that adds compute and memory time (1: one after the other, infinity: the
    shorter is hidden); launch: seconds per product whatever it does.

    Devices whose kernels are not described leave out the rest. tiles: [rows, cols] of the output tiles that
    kernels exist for; ramp: seconds of a unit per tile besides the main loop (filling the pipeline, writing
    the result); feed: bytes/s that one unit draws from the cache; pull: bytes/s that one unit draws from
    memory (its bytes in flight over the latency); split: the least depth of a part; merge: seconds per split
    product; widen: packed weights per second that one unit brings to the precision of the product; joules:
    energy of a FLOP in 16 bits at full clock, which holds the sustained rate to (power limit / power at full
    clock) ** throttle of the peak; dispatch: seconds of a layer of experts beside its products, in which
    small kernels that wait for each other rank the tokens by expert, gather them, set up the products and sum
    up.
    """

    matrix: Ratio
    narrow: Ratio
    memory: Ratio
    cache: Ratio
    overlap: Ratio
    launch: Seconds
    tiles: list[tuple[int, int]] = Field(default_factory=list)
    ramp: Seconds | None = None
    feed: Bandwidth | None = None
    pull: Bandwidth | None = None
    split: Count | None = None
    merge: Seconds | None = None
    widen: ElementRate | None = None
    joules: EnergyPerFlop | None = None
    throttle: Ratio | None = None
    dispatch: Seconds | None = None


def _value(figure: Figure | None, neutral: float) -> float:
    return neutral if figure is None else figure.value


def _with_smaller(tiles: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(rows, cols, rows of the next smaller tile of as many columns or 0) of each tile."""
    ordered = sorted(tiles)
    return [
        (rows, cols, max((r for r, c in ordered if c == cols and r < rows), default=0))
        for rows, cols in ordered
    ]


class ProductTime:
    """Times products on one device."""

    def __init__(self, section: ProductEfficiency, machine: Machine, kernels: Kernels = USUAL) -> None:
        self.units = machine.units
        self.matrix = section.matrix.value
        self.narrow = section.narrow.value * kernels.narrow
        self.overlap = section.overlap.value
        self.launch = section.launch.value
        self.tiles = _with_smaller(section.tiles)
        self.ramp = _value(section.ramp, 0.0)
        self.feed = _value(section.feed, inf)
        self.pull = _value(section.pull, inf)
        self.split = _value(section.split, inf)
        self.merge = _value(section.merge, 0.0)
        self.widen = _value(section.widen, inf)
        self.joules = _value(section.joules, 0.0)
        self.throttle = _value(section.throttle, 0.5)
        self.dispatch = _value(section.dispatch, 0.0)
        self.vector = machine.vector
        self.power = machine.power
        self.memory_bandwidth = min(machine.memory_bandwidth * section.memory.value, self.units * self.pull)
        self.cache_capacity = machine.cache_capacity
        self.cache_bandwidth = machine.cache_bandwidth * section.cache.value or self.memory_bandwidth

    def bandwidth(self, resident: float) -> float:
        """Bytes/s at which weights stream when every step goes through `resident` bytes (0: more than a cache
        holds)."""
        return self.cache_bandwidth if 0 < resident <= self.cache_capacity else self.memory_bandwidth

    def share(self, precision: Precision) -> float:
        """Share of the peak matrix rate while a tile goes over the depth."""
        return self.matrix * self.narrow if is_narrow(precision) else self.matrix

    def sustained(self, peak: float, precision: Precision) -> float:
        """FLOP/s that the power limit lets large products keep up, of `peak`."""
        full = peak * self.share(precision)
        watts = full * self.joules * _WIDTH.get(precision, _HALF) / _HALF
        return full if watts <= self.power else full * (self.power / watts) ** self.throttle

    def seconds(
        self, op: Linear | ExpertMLP, precision: Precision, peak: float, resident: float = 0.0
    ) -> tuple[float, str]:
        """Seconds of the whole op, its matrix FLOP done in `precision` at `peak` FLOP/s, and what bounds it
        ("compute", "memory", "overhead"); resident: bytes that every step goes through."""
        multiplied = get_format(op.format).matmul
        packed = multiplied is None or _WIDTH.get(multiplied, _HALF) < _WIDTH.get(precision, _HALF)
        if isinstance(op, Linear):
            depth, cols = op.depth, op.out_features // op.groups
            if isinstance(op, BitPlaneLinear) and precision == op.compute:
                peak /= op.plane_pairs
            return self.product(
                op.tokens,
                depth,
                cols,
                op.weight_bytes,
                peak=peak,
                precision=precision,
                act_bytes=op.act_bytes,
                batch=op.groups,
                packed=packed,
                resident=resident,
            )
        touched = max(op.touched, 1.0)
        rows = op.pairs / touched
        matrix = op.touched * op.expert_bytes / op.matrices
        up, bound = self.product(
            rows,
            op.hidden,
            op.ffn * (op.matrices - 1),
            matrix * (op.matrices - 1),
            peak=peak,
            precision=precision,
            act_bytes=op.act_bytes,
            batch=touched,
            packed=packed,
            resident=resident,
        )
        down, _ = self.product(
            rows,
            op.ffn,
            op.hidden,
            matrix,
            peak=peak,
            precision=precision,
            act_bytes=op.act_bytes,
            batch=touched,
            packed=packed,
            resident=resident,
        )
        return up + down + self.dispatch, bound

    def passes(self, op: Linear | ExpertMLP) -> tuple[float, float]:
        """Elementwise kernels beside the products, and bytes of activations that go through them.

        Experts sort the tokens, gather their rows, apply the activation function and sum up what the experts
        of a token made; a product in fewer bits rounds its activations first. None where the vector work is
        within the product.
        """
        if isinstance(op, ExpertMLP):
            gathered, summed = 2 * op.hidden, op.hidden
            return 4, float(op.pairs * (gathered + op.ffn * op.matrices + summed) * op.act_bytes)
        if op.vector_flop and get_format(op.format).matmul is not None:
            nbytes = op.tokens * op.in_features * (op.act_bytes + _WIDTH.get(op.compute, _HALF))
            return 1, nbytes
        return 0, 0.0

    def product(
        self,
        rows: float,
        depth: int,
        cols: int,
        weight_bytes: float,
        *,
        peak: float,
        precision: Precision = "fp16",
        act_bytes: float = 2.0,
        batch: float = 1.0,
        packed: bool = False,
        resident: float = 0.0,
    ) -> tuple[float, str]:
        """Seconds of `batch` equal [rows, depth] × [depth, cols] products together, and what bounds them."""
        flop = 2.0 * batch * rows * depth * cols
        moved = batch * rows * (depth + cols) * act_bytes
        near = min(moved, self.cache_capacity)
        stream = self.bandwidth(resident)
        memory = weight_bytes / stream + near / self.cache_bandwidth + (moved - near) / self.memory_bandwidth
        least = flop / self.sustained(peak, precision)
        if not self.tiles:
            return self._together(least, memory)
        width = _WIDTH.get(precision, _HALF)
        stored = weight_bytes / (batch * depth * cols)
        pulled = stored / self.pull
        if 0 < resident <= self.cache_capacity:
            pulled = 0.0
        rate = peak * self.share(precision) / self.units / 2.0
        units, power = self.units, self.overlap
        by_element = precision == "fp32" and peak <= self.vector
        widen = 1.0 / self.widen if packed else 0.0
        best, bound = inf, "memory"
        for tile_rows, tile_cols, smaller in self.tiles:
            if smaller >= rows:
                continue  # a smaller tile of as many columns holds all rows
            tiles = batch * ceil(rows / tile_rows) * ceil(cols / tile_cols)
            wide = min(tile_cols, cols)
            deep = min(tile_rows, ceil(rows)) if by_element else tile_rows
            step = max(
                deep * tile_cols / rate,
                (min(tile_rows, rows) * width + wide * stored) / self.feed,
                wide * widen,
            )
            pull = wide * pulled
            for split in _SPLITS:
                if split > 1 and (tiles * split > 2 * units or depth < split):
                    break
                part = depth if split == 1 else max(depth / split, self.split)
                compute = ceil(tiles * split / units - 1e-9) * (step * part + self.ramp)
                compute = max(least, compute) if split == 1 else max(least, compute) + self.merge
                if compute >= best:
                    continue
                stream_seconds = max(memory, pull * part)
                total = (compute**power + stream_seconds**power) ** (1.0 / power)
                if total < best:
                    best, bound = total, "compute" if compute > stream_seconds else "memory"
        return best + self.launch, "overhead" if self.launch > best else bound

    def _together(self, compute: float, memory: float) -> tuple[float, str]:
        """Compute and memory time that overlap as far as they do, with the launch."""
        busy: float = (compute**self.overlap + memory**self.overlap) ** (1.0 / self.overlap)
        if self.launch > busy:
            return busy + self.launch, "overhead"
        return busy + self.launch, "compute" if compute > memory else "memory"
