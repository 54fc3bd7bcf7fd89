"""Seconds of attention: work items of query tiles by keys, spread over the units of a device.

A fused kernel (FlashAttention-2, arXiv:2307.08691; FlashAttention-3, arXiv:2407.08608) packs the query heads
that share a key-value head into tiles of `rows` query rows. An item is one tile of one sequence and key-value
head; it goes over the keys that the tile sees. Where items are fewer than the units, the keys are split among
several of them (Flash-Decoding, Dao et al., 2023). One description thus holds for decode, which has one tile
a sequence and is bound by reading the cache, for prefill, which has many and is bound by matrix products, and
for batches of both.
"""

from __future__ import annotations

from math import ceil

from twofold.devices.efficiency.kernels import USUAL, Kernels
from twofold.devices.efficiency.machine import Machine
from twofold.devices.figures import Bandwidth, Count, Ratio, Seconds, Strict
from twofold.ops.attention import Attention
from twofold.ops.base import DEVICE, Cost


class Tiling(Strict):
    """How a fused kernel spreads attention over units.

    rows: query rows of a tile; item: seconds of a unit to start and end an item; split: the least keys that
    are worth a unit of their own; pull: bytes/s that one unit can read; packed: whether query heads that
    share a key-value head fill a tile together, and keys are split, at any number of queries
    (FlashAttention-3), or only at one query a sequence, after copying the heads together (FlashAttention-2);
    aside: seconds of a kernel beside the main one, which adds up what the keys were split into or copies
    heads together.
    """

    rows: Count
    item: Seconds
    split: Count
    pull: Bandwidth
    packed: bool
    aside: Seconds


class AttentionEfficiency(Strict):
    """How much of a device attention uses.

    matrix, vector: share of the peak matrix and elementwise rates (the latter for softmax) while a tile goes
    over its keys; memory, cache: share of the peak bandwidths of the memory and of the last cache; exposed:
    share of the shorter of the units' and the memory's time that the longer does not hide; launch: seconds
    whatever is done; tiling: None spreads the work evenly.
    """

    matrix: Ratio
    vector: Ratio
    memory: Ratio
    cache: Ratio
    exposed: Ratio
    launch: Seconds
    tiling: Tiling | None = None


class AttentionTime:
    """Times attention on one device."""

    def __init__(self, section: AttentionEfficiency, machine: Machine, kernels: Kernels = USUAL) -> None:
        self.units = machine.units
        self.matrix = section.matrix.value
        self.vector = machine.vector * section.vector.value
        self.exposed = section.exposed.value
        self.launch = section.launch.value
        self._memory = machine.memory_bandwidth * section.memory.value
        self._cache_capacity = machine.cache_capacity if machine.cache_bandwidth else 0.0
        self._cache = machine.cache_bandwidth * section.cache.value
        self.tiling = section.tiling
        if section.tiling is not None:
            self._rows = section.tiling.rows.value
            self._item = section.tiling.item.value
            self._decode = kernels.decode
            self._split = section.tiling.split.value
            self._pull = section.tiling.pull.value
            self._aside = section.tiling.aside.value
            self._packed = section.tiling.packed

    def seconds(self, op: Attention, cost: Cost, peak: float, resident: float = 0.0) -> tuple[float, str]:
        """Seconds of the whole op at `peak` matrix FLOP/s, and what bounds it ("compute", "memory",
        "overhead").

        resident: bytes that every step goes through, 0 = more than any cache holds. Only where they fit the
        last cache is the key-value cache read from there: otherwise each step pushes out what the next reads.
        """
        busy = cost.flop / (peak * self.matrix) + cost.vector_flop / self.vector
        moved = self._moving(cost, resident)
        fixed = self.launch
        if self.tiling is not None:
            starts, alone, splits, active = self._spread(op)
            if op.space == DEVICE:
                moved = max(moved, op.cache_bytes / (active * self._pull))
            fixed += self._aside * ((splits > 1) + self._regroups(op))
            # The largest item is done by the units that share its keys; cost.flop counts all items.
            share = alone * self.units / (splits * max(1, op.totals.pairs * op.heads))
            busy = starts + busy * max(1.0, share)
        longer, shorter = (busy, moved) if busy > moved else (moved, busy)
        seconds = fixed + longer + self.exposed * shorter
        if fixed > seconds - fixed:
            return seconds, "overhead"
        return seconds, "compute" if busy > moved else "memory"

    def _regroups(self, op: Attention) -> bool:
        """Whether heads that share keys must be copied together first: with one head or one sequence they
        are."""
        return not self._packed and op.totals.singles > 1 and 1 < op.kv_heads < op.heads

    def _moving(self, cost: Cost, resident: float) -> float:
        """Seconds of the memory beside the units: of the key-value cache, and of queries and outputs, which
        come from the last cache as far as they fit."""
        cached = 0 < resident <= self._cache_capacity
        stream = self._cache if cached else self._memory
        seconds = 0.0
        for role, read, written, space in cost.traffic:
            if space != DEVICE:
                continue
            nbytes = read + written
            if role == "activations" and not cached:
                near = min(nbytes, self._cache_capacity)
                if near:
                    seconds += near / self._cache
                nbytes -= near
            seconds += nbytes / stream
        return seconds

    def _spread(self, op: Attention) -> tuple[float, float, float, float]:
        """Seconds of starting items on the busiest unit; query-key pairs (times heads) of the largest item;
        units that share the keys of an item; units that have any work."""
        totals, group = op.totals, op.heads / op.kv_heads
        if op.split == "even":
            starts = self._item * ceil(totals.num_seqs * op.kv_heads / self.units)
            return starts, totals.pairs * op.heads / self.units, 1, self.units
        singles = totals.singles
        rest = totals.num_seqs - singles
        depth = rows = 0.0
        items, alone = 0, 0
        if singles:
            items = alone = singles * op.kv_heads * ceil(group / self._rows)
            depth, rows = totals.single_keys / singles, min(group, self._rows)
        splittable = self._packed or group > 1
        if rest:
            queries = (totals.queries - singles) / rest
            heads, tile = op.heads, op.rows or self._rows
            if self._packed and not op.rows:
                queries, heads = queries * group, op.kv_heads
            items += rest * heads * ceil(queries / tile)
            depth, rows = totals.max_keys, min(queries, tile)
            splittable = self._packed
        splits = 1.0
        cut = op.split == "fixed" or (splittable and op.split == "auto")
        if cut and items < self.units:
            splits = max(1.0, min(self.units // items, depth / self._split))
        if op.rows:  # an item of all queries goes over its sequence's pairs, which are less than a rectangle
            rows = min(rows, ceil(totals.pairs / (totals.num_seqs * max(1.0, depth))))
        # Items of one query start in the time of the software's own kernel.
        item = self._item * (1 - (1 - self._decode) * alone / items)
        return item * -(-items // self.units), rows * depth, splits, min(self.units, items * splits)
