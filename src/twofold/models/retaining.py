"""Which entries of a layer's cache stay: the seam of methods that drop or merge entries, on the side of the
tensors.

How many entries of a sequence stay, and when, is decided by `engine.retention`, from lengths alone; a
`Retainer` chooses which, for every KV head on its own, and may watch what queries attend to. Keys keep the
positions at which they were rotated, and entries their order.

Shape letters: N entries of a sequence, K KV heads, H heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from twofold.models.step import StepInput, flat_slots
from twofold.ops.attention import Span, total_spans
from twofold.ops.compaction import SCORE_BYTES, Compact, Compaction, KeyScores

if TYPE_CHECKING:
    from twofold.devices.base import Device
    from twofold.models.cache import CacheLayer

Move = Callable[[torch.Tensor, torch.Tensor], None]


class Retainer:
    """Base of retainers; keeps scores where `scores` says so, in the tensor "scores" of the cache: float32
    [blocks, block_size, K]."""

    scores: bool = False
    """Whether entries have scores."""

    @property
    def cost_key(self) -> object:
        """Equal for retainers whose ops are equal for equal steps and compactions; hashable."""
        return type(self)

    def choice_flop(self, cache: CacheLayer, compaction: Compaction) -> int:
        """Elementwise operations to choose, for all KV heads."""
        del cache, compaction
        return 0

    def touched(self, compaction: Compaction) -> tuple[int, int]:
        """Entries that are read and written, at most."""
        moved = min(compaction.kept, compaction.entries - compaction.kept)
        return moved, moved

    def keep(self, cache: CacheLayer, slots: torch.Tensor, compaction: Compaction) -> torch.Tensor:
        """Which of the sequence's entries, which are in `slots` [N], stay: ascending numbers [kept] for all
        KV heads, or [kept, K]."""
        raise NotImplementedError

    # --- the same for all ---

    def observe(self, device: Device, cache: CacheLayer, step: StepInput, q: torch.Tensor | None) -> None:
        """Score entries by the attention of the queries that `step.observed` names. q: [T, H, D]."""
        device.execute(self.scores_op(cache, step), cache, step, q)

    def scores_op(self, cache: CacheLayer, step: StepInput) -> KeyScores:
        """What `observe` executes."""
        h = cache.heads
        spans = [
            Span(len(seen.tokens), span.keys - span.queries + seen.tokens.stop)
            for seen, span in zip(step.observed, step.spans, strict=True)
            if seen is not None
        ]
        fresh = sum(
            span.keys if seen.begins else span.queries
            for seen, span in zip(step.observed, step.spans, strict=True)
            if seen is not None
        )
        totals = total_spans(spans)
        key_bytes, widen_flop = cache.key_cost(totals.keys)
        return KeyScores(
            totals,
            h.heads,
            h.kv_heads,
            h.head_dim,
            0,
            key_bytes,
            h.compute,
            h.act_bytes,
            widen_flop,
            fresh=fresh,
        )

    def compact_op(self, cache: CacheLayer, compactions: Sequence[Compaction]) -> Compact:
        """What `compact` is charged as."""
        touched = [self.touched(c) for c in compactions]
        return Compact(
            sum(c.entries for c in compactions),
            sum(read for read, _ in touched),
            sum(written for _, written in touched),
            cache.block_bytes() // cache.block_size,
            SCORE_BYTES * cache.heads.kv_heads if self.scores else 0,
            sum(self.choice_flop(cache, c) for c in compactions),
        )

    def compact(self, cache: CacheLayer, compaction: Compaction, move: Move) -> None:
        """Leave `kept` entries of the sequence, in its first slots. move: copies entries from slots to slots
        (see `CacheLayer.move`)."""
        where = next(iter(cache.tensors.values())).device
        slots = flat_slots(compaction.table, cache.block_size, compaction.entries, where)
        chosen = self.keep(cache, slots, compaction)
        move(slots[chosen], slots[: compaction.kept])


class RetainerScheme(Protocol):
    """What chooses the entries that stay, layer by layer: the part of `engine.retention.Retention` that a
    model is put together with."""

    def retainer(self, layer: int) -> Retainer:
        """The retainer of layer number `layer`."""
