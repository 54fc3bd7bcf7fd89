"""The cache layer of ZipVL: what is important in a prompt is found, attends, and is stored with more bits.

Shape letters: T new tokens, K KV heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.devices.base import Device
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, CacheWrite, Span, total_spans
from twofold.techniques.cache.zipvl_ops import Chosen, ZipAttention, ZipWrite
from twofold.techniques.cache.zipvl_select import SelectImportant, num_probes
from twofold.techniques.cache.zipvl_store import ZipStore

WIDEN_FLOP = 5
"""Elementwise operations to widen an element: shift, mask, multiply, add, and multiply by its channel."""
PACK_FLOP = 9
"""The same to pack one: divide, minimum, maximum, subtract, multiply, round, clamp, shift, or."""


class ZipCache(ZipStore):
    """A store whose prompts attend by their important tokens."""

    def _is_prompt(self, queries: int) -> bool:
        """Whether so many new tokens are probed for the important ones."""
        return queries > 2 * self.shared.probes

    def ops(self, step: StepInput) -> tuple[CacheWrite, Attention]:
        """The ops of a step in which what is expected, or everything, is important."""
        counts = [
            max(1, round(s.queries * self.shared.share)) if self._is_prompt(s.queries) else s.queries
            for s in step.spans
        ]
        return self._storing(step, counts), self._attention(step, counts)

    def _attention(self, step: StepInput, counts: Sequence[int]) -> ZipAttention:
        h = self.heads
        spans = [
            Span(count, s.keys - s.queries + count) if h.window is None else s
            for s, count in zip(step.spans, counts, strict=True)
        ]
        old = sum(s.keys - s.queries for s in step.spans)
        return ZipAttention(
            total_spans(spans, h.window),
            h.heads,
            h.kv_heads,
            h.head_dim,
            h.v_dim,
            self.read_bytes(step),
            h.compute,
            h.act_bytes,
            WIDEN_FLOP * old * h.stored_width,
            format=self.stored_as,
        )

    def _storing(self, step: StepInput, counts: Sequence[int]) -> ZipWrite:
        h, tokens = self.heads, step.num_tokens
        nbytes = self._bytes(tokens, sum(counts))
        flop = PACK_FLOP * tokens * h.stored_width
        return ZipWrite(tokens, h.stored_width, nbytes, h.act_bytes, flop, format=self.stored_as)

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Find what is important in prompts, attend, then store the new entries."""
        h, start = self.heads, 0
        chosen: Chosen = []
        counts: list[int] = []
        for i, span in enumerate(step.spans):
            end = start + span.queries
            found, count = None, span.queries
            if self._is_prompt(span.queries):
                op = self._selecting(step, i)
                if q is not None:
                    assert k is not None
                    assert v is not None
                    keys, _ = self.read(step, i, k, v)
                    found = device.execute(op, q[start:end], keys, h, self.shared.probes, self.shared.tau)
                    count = len(found)
                else:
                    device.execute(op)
                    count = max(1, round(span.queries * self.shared.share))
                self.shared.counters["tokens_probed"] += span.queries
                self.shared.counters["tokens_important"] += count
            chosen.append(found)
            counts.append(count)
            start = end
        attended = chosen if h.window is None else [None] * len(chosen)
        out: torch.Tensor | None = device.execute(
            self._attention(step, counts), q, self, step, k, v, attended
        )
        device.execute(self._storing(step, counts), self, step, k, v, chosen)
        self.shared.counters["entries_important"] += sum(counts)
        return out

    def _selecting(self, step: StepInput, seq: int) -> SelectImportant:
        h, span = self.heads, step.spans[seq]
        old = span.keys - span.queries
        row = step.rows[seq] if step.rows else None
        return SelectImportant(
            num_probes(span.queries, self.shared.probes),
            span.queries,
            span.keys,
            h.heads,
            h.kv_heads,
            h.head_dim,
            self._bytes(old, self._high(row, old)),
            h.act_bytes,
        )
