"""The cache layer of SpAtten: keys in two halves of four bits, values in eight, and what entries matter.

Shape letters: T new tokens, N visible entries, K KV heads, D head dimension, B blocks.
"""

from __future__ import annotations

from typing import Any

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput
from twofold.ops.attention import SpanTotals, total_spans
from twofold.ops.pruned_attention import (
    PrunedAttention,
    RankedAttention,
    ScoreUpper,
    ScoreWhole,
    WeighValues,
)
from twofold.techniques.attention.spatten_cascade import Cascade, Parts
from twofold.techniques.attention.spatten_codes import halves, joined, quantise
from twofold.techniques.attention.spatten_ops import Work

SCALE_BYTES = 2
"""Of the scale of a head's key, and of its value."""

_EMPTY = torch.zeros(0)


class SpattenCache(CacheLayer):
    """Tensors, with b tokens a block: k_upper, k_lower uint8 [B, b, K, D / 2], two codes a byte; v int8
    [B, b, K, v_dim]; k_scale, v_scale fp16 [B, b, K]; the first layer of a model also importance float32
    [B, b]: the attention that an entry was given so far by all layers, heads and queries.

    Not shareable: what matters to one sequence is not what matters to another.
    """

    shareable = False

    def __init__(self, heads: Heads, block_size: int, layer: int, cascade: Cascade) -> None:
        super().__init__(heads, block_size)
        self.layer = layer
        self.cascade = cascade
        self.stored_as = "spatten"
        self.first: SpattenCache = self

    # --- counting

    @property
    def _half_bytes(self) -> int:
        """Bytes of half the bits of one key."""
        return self.heads.head_dim // 2

    @property
    def _value_bytes(self) -> int:
        return self.heads.v_dim + SCALE_BYTES

    @property
    def _entry_bytes(self) -> int:
        return self.heads.kv_heads * (2 * self._half_bytes + SCALE_BYTES + self._value_bytes)

    def block_bytes(self) -> int:
        """A block of entries; in the first layer also how much they matter."""
        return self.block_size * (self._entry_bytes + (4 if self.first is self else 0))

    @property
    def cost_key(self) -> object:
        """Layers differ by how much is pruned before them: known once all layers of the model are made."""
        alive = self.cascade.num_heads(self.layer, self.heads.heads)
        return type(self), self.heads, self.block_size, self.cascade.share(self.layer), alive

    def read_bytes(self, step: StepInput) -> int:
        """All visible entries: what is read at most."""
        return step.totals(None).keys * self._entry_bytes

    def write_bytes(self, step: StepInput) -> int:
        """One entry per token."""
        return step.num_tokens * self._entry_bytes

    def pack_flop(self, step: StepInput) -> int:
        """Per element: maximum, multiply, round, clamp, shift and or."""
        return 6 * step.num_tokens * self.heads.stored_width

    def widen_flop(self, step: StepInput) -> int:
        """Per element: shift or mask, subtract, multiply."""
        return 3 * step.totals(None).keys * self.heads.stored_width

    def _part(
        self,
        kind: type[PrunedAttention],
        totals: SpanTotals,
        nbytes: float,
        scores: int,
        width: int,
        elements: float,
        alive: int,
    ) -> PrunedAttention:
        """One part of attention; elements: of the cache, that are widened; alive: heads left."""
        h = self.heads
        return kind(
            totals,
            h.heads,
            h.kv_heads,
            h.head_dim,
            h.v_dim,
            round(nbytes),
            h.compute,
            h.act_bytes,
            round(3 * elements),
            format=self.stored_as,
            scores=scores,
            width=width,
            alive=alive,
        )

    # --- the step

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Store the new entries; attend with all of a prompt's, and with what is left of generated
        tokens'."""
        device.execute(self.writing(step), self, step, k, v)
        if self.first is self:
            self.cascade.begin()
        out = None if q is None else q.new_empty(len(q), self.heads.heads * self.heads.v_dim)
        parts = self.cascade.parts(step.spans)
        if parts.prompts:
            device.execute(self._ranked(step, parts.prompts), q, self, step, parts.prompts, out)
        if parts.others:
            self._attend_pruned(device, step, parts, q, out)
        return out

    def _ranked(self, step: StepInput, seqs: list[int]) -> RankedAttention:
        h, spans = self.heads, [step.spans[i] for i in seqs]
        totals = total_spans(spans)
        return RankedAttention(
            totals,
            h.heads,
            h.kv_heads,
            h.head_dim,
            h.v_dim,
            totals.keys * self._entry_bytes,
            h.compute,
            h.act_bytes,
            3 * totals.keys * h.stored_width + totals.pairs * h.heads,
            format=self.stored_as,
        )

    def _attend_pruned(
        self, device: Device, step: StepInput, parts: Parts, q: torch.Tensor | None, out: Any
    ) -> None:
        h, cascade = self.heads, self.cascade
        left = cascade.left(parts, self.layer, h.heads // h.kv_heads)
        heads = cascade.num_heads(self.layer, h.heads)
        work = [] if q is None else self._work(step, parts.others, left.counts, heads, q.device)
        rows, scores = left.totals.queries * heads, left.totals.pairs * heads
        entries, values = (self._of_heads(each, heads, work) for each in (left.counts, left.read))

        op = self._part(
            ScoreUpper,
            left.totals,
            entries * (self._half_bytes + SCALE_BYTES),
            scores,
            h.head_dim,
            entries * h.head_dim,
            heads,
        )
        unsure = device.execute(op, q, self, step, work, cascade.threshold)
        if q is None:
            share = cascade.unsure
            unsure, again, lower = round(share * rows), round(share * scores), share * entries
        else:
            again, lower = self._again(work)
        if unsure:
            op = self._part(
                ScoreWhole,
                left.totals,
                lower * self._half_bytes,
                again,
                h.head_dim,
                lower * h.head_dim,
                heads,
            )
            device.execute(op, q, self, step, work)

        weighed = left.weighed * heads
        op = self._part(
            WeighValues, left.totals, values * self._value_bytes, weighed, h.v_dim, values * h.v_dim, heads
        )
        device.execute(op, q, self, step, work, left.values, out)
        counters = cascade.counters
        counters["entries_read"] += left.totals.keys
        counters["entries_pruned"] += sum([s.keys for s in parts.spans]) - left.totals.keys
        counters["rows_scored"] += rows
        counters["rows_refined"] += unsure

    def _of_heads(self, entries: list[int], heads: int, work: list[Work]) -> int:
        """Entries of all sequences, counted for each KV head that any of its `heads` that are left
        needs: keys of a group are read once."""
        if not work:
            return sum(entries) * min(self.heads.kv_heads, heads)
        kv_heads = [len(set(self.kv_of(part.heads).tolist())) for part in work]
        return sum(n * kv for n, kv in zip(entries, kv_heads, strict=True))

    def _again(self, work: list[Work]) -> tuple[int, int]:
        """Scores that are computed again, and keys whose lower bits are read for that."""
        scores = keys = 0
        for part in work:
            entries = len(part.entries)
            scores += int(part.unsure.sum()) * entries
            heads = part.heads[part.unsure.any(-1)]
            keys += len(set(self.kv_of(heads).tolist())) * entries
        return scores, keys

    def _work(
        self, step: StepInput, seqs: list[int], counts: list[int], heads: int, where: torch.device
    ) -> list[Work]:
        work = []
        for seq, count in zip(seqs, counts, strict=True):
            start = sum(s.queries for s in step.spans[:seq])
            importance = self.first.flat("importance")[step.tables[seq]]
            entries = self.cascade.entries(seq, count, importance, step.spans[seq].queries)
            alive = self.cascade.alive(seq, heads, self.heads.heads, where)
            work.append(Work(seq, start, step.spans[seq].queries, entries, alive, _EMPTY, _EMPTY))
        return work

    def kv_of(self, heads: torch.Tensor) -> torch.Tensor:
        """The KV head of each of `heads`."""
        return heads // (self.heads.heads // self.heads.kv_heads)

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The tensors named above, zero."""
        h, shape = self.heads, (size.num_blocks, size.block_size)
        self.tensors = {
            "k_upper": reserve((*shape, h.kv_heads, self._half_bytes), torch.uint8, where),
            "k_lower": reserve((*shape, h.kv_heads, self._half_bytes), torch.uint8, where),
            "v": reserve((*shape, h.kv_heads, h.v_dim), torch.int8, where),
            "k_scale": reserve((*shape, h.kv_heads), torch.float16, where),
            "v_scale": reserve((*shape, h.kv_heads), torch.float16, where),
        }
        if self.first is self:
            self.tensors["importance"] = reserve(shape, torch.float32, where)

    def flat(self, name: str) -> torch.Tensor:
        """A tensor by slot."""
        return self.tensors[name].flatten(0, 1)

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Quantise k, v [T, K, D], a head of a token at a time, and scatter them to `step.slots`."""
        assert step.slots is not None
        key, value = quantise(k), quantise(v)
        upper, lower = halves(key[0])
        stored = {
            "k_upper": upper,
            "k_lower": lower,
            "v": value[0].to(torch.int8),
            "k_scale": key[1],
            "v_scale": value[1],
        }
        for name, new in stored.items():
            self.flat(name).index_copy_(0, step.slots, new)
        if self.first is self:
            self.flat("importance").index_fill_(0, step.slots, 0.0)

    def keys(self, step: StepInput, seq: int, entries: torch.Tensor, *, whole: bool) -> torch.Tensor:
        """Keys of those entries of a sequence, float32 [n, K, D]: by all bits, or by the upper half,
        which stands for the middle of what it may be."""
        slots = step.tables[seq][entries]
        codes = joined(self.flat("k_upper")[slots], self.flat("k_lower")[slots] if whole else None)
        return codes.mul_(self.flat("k_scale")[slots].float().unsqueeze(-1))

    def values(self, step: StepInput, seq: int, entries: torch.Tensor) -> torch.Tensor:
        """Values of those entries of a sequence, float32 [n, K, v_dim]."""
        slots = step.tables[seq][entries]
        return self.flat("v")[slots].float().mul_(self.flat("v_scale")[slots].float().unsqueeze(-1))

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all visible entries, by all bits: float32 [N, K, D]."""
        slots = step.tables[seq]
        entries = torch.arange(len(slots), device=slots.device)
        return self.keys(step, seq, entries, whole=True), self.values(step, seq, entries)

    def add_importance(self, step: StepInput, seq: int, entries: torch.Tensor, given: torch.Tensor) -> None:
        """Those entries of a sequence were given that attention [n] in one layer."""
        self.first.flat("importance").index_add_(0, step.tables[seq][entries], given)
