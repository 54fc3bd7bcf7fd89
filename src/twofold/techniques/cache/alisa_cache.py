"""The cache layer of ALISA: before a step attends, tokens are chosen; those of them that lie on the host are
fetched, and those that were deleted are recomputed.

Shape letters: T new tokens, Q new tokens of a sequence, N entries that it attends to, K KV heads, G heads per
KV head, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.devices.base import Device
from twofold.kernels.reference.attention import attend_sequence
from twofold.models.rope import RotaryTables
from twofold.models.step import StepInput
from twofold.ops.attention import Span, total_spans
from twofold.ops.base import DEVICE, HOST
from twofold.ops.movement import Copy
from twofold.techniques.attention.short import is_generated
from twofold.techniques.cache.alisa_gather import AlisaGather, Picks
from twofold.techniques.cache.alisa_ops import (
    WEIGHT_BYTES,
    LocalSum,
    StoreEntries,
    WindowAttention,
    attention_weights,
    over_heads,
    weighted,
)
from twofold.techniques.cache.alisa_schedule import Chosen
from twofold.techniques.cache.alisa_store import joined_entries


class AlisaCache(AlisaGather):
    """A store whose queries attend to the tokens that sparse window attention chooses, or, in prompts, to
    all."""

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        x: torch.Tensor | None = None,
        rotary: RotaryTables | None = None,
    ) -> torch.Tensor | None:
        """Choose, fetch, recompute, store, attend."""
        host = HOST if HOST in device.memory else DEVICE
        if q is not None:
            self.delete(step)
        picks = self._choose(device, step, q)
        if picks is None:
            chosen = [self.schedule.expected(span) for span in step.spans]
        else:
            chosen = [self._where(*one) for one in zip(step.spans, picks, strict=True)]
        for span, of_span in zip(step.spans, chosen, strict=True):
            self.schedule.count(span, of_span)
        gathered = self.gather(device, step, picks, chosen, rotary, host)
        self._store(device, step, k, v, x, host)
        out: torch.Tensor | None = device.execute(
            self._attention(step.spans, chosen),
            q,
            lambda queries: self._attend(step, queries, k, v, picks, gathered),
        )
        return out

    # --- choosing

    def _steps(self, span: Span) -> int:
        """Preceding steps whose attention is added up for `span`: as many as there are local tokens."""
        return min(self.schedule.split(span)[0], self.schedule.local_steps)

    def _candidates(self, span: Span) -> int:
        """Tokens of which `span` attends to some; 0 where it attends to all."""
        local, others = self.schedule.split(span)
        count = span.keys - span.queries - local
        return count if others < count else 0

    def _choose(self, device: Device, step: StepInput, q: torch.Tensor | None) -> Picks | None:
        spans = [s for s in step.spans if self._candidates(s)]
        picks = None
        if q is not None:
            picks = [torch.arange(s.keys - s.queries, device=q.device) for s in step.spans]
        if spans:
            counts = [self._candidates(s) for s in spans]
            op = LocalSum(
                sum(self._steps(s) * n for s, n in zip(spans, counts, strict=True)),
                sum(counts),
                sum(self.schedule.split(s)[1] for s in spans),
            )
            device.execute(op, lambda: self._pick(step, picks))
        return picks

    def _pick(self, step: StepInput, picks: Picks | None) -> None:
        """Replace those of `picks` of which some are chosen."""
        assert picks is not None
        for seq, span in enumerate(step.spans):
            if count := self._candidates(span):
                sums = self.local_sum(step, seq, self._steps(span), count)
                others = sums.topk(self.schedule.split(span)[1]).indices.sort().values
                picks[seq] = torch.cat((others, picks[seq][count:]))

    def _where(self, span: Span, pick: torch.Tensor) -> Chosen:
        """How many of `pick` lie where; adds to the behaviour how far back the chosen ones lie."""
        schedule, before = self.schedule, span.keys - span.queries
        local, others = schedule.split(span)
        hosted, gone = schedule.hosted(before), schedule.gone(before)
        again, far = torch.searchsorted(pick, pick.new_tensor((gone, hosted))).tolist() if hosted else (0, 0)
        if self._candidates(span):
            schedule.even += schedule.even_far(span)
            schedule.far += far - max(0, hosted - (before - local))
        return Chosen(local, others, far - again, again)

    # --- attending

    def _attention(self, spans: Sequence[Span], chosen: Sequence[Chosen]) -> WindowAttention:
        h, steps = self.heads, self.schedule.local_steps
        totals = total_spans(
            [Span(s.queries, c.total + s.queries) for s, c in zip(spans, chosen, strict=True)]
        )
        return WindowAttention(
            totals,
            h.heads,
            h.kv_heads,
            h.head_dim,
            h.v_dim,
            totals.keys * h.stored_width * h.act_bytes,
            h.compute,
            h.act_bytes,
            kept=sum(min(s.queries, steps) * s.keys for s in spans),
            again=sum(min(s.queries, steps) * s.keys for s in spans if not is_generated(s)),
        )

    def _attend(
        self,
        step: StepInput,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        picks: Picks | None,
        gathered: dict[int, torch.Tensor],
    ) -> torch.Tensor:
        assert k is not None
        assert v is not None
        assert picks is not None
        h, steps = self.heads, self.schedule.local_steps
        out = q.new_empty(len(q), h.heads * h.v_dim)
        for seq, (_, start, before, after) in enumerate(step.parts()):
            mine, queries = slice(start, start + after - before), after - before
            entries, width = joined_entries(k[mine], v[mine]), h.kv_heads * h.head_dim
            if seq in gathered:
                entries = torch.cat((gathered[seq], entries))
            keys = entries[:, :width].view(-1, h.kv_heads, h.head_dim)
            values = entries[:, width:].view(-1, h.kv_heads, h.v_dim)
            if is_generated(step.spans[seq]):
                weights = attention_weights(q[mine], keys, h)
                out[mine] = weighted(weights, values, queries)
                seen = torch.cat((picks[seq], torch.arange(before, after, device=q.device)))
                self.keep_weights(step, seq, over_heads(weights, queries)[-steps:], seen)
            else:
                out[mine] = attend_sequence(q[mine], keys, values, h)
                last = q[mine][-steps:]
                self.keep_weights(step, seq, over_heads(attention_weights(last, keys, h), len(last)))
        return out

    # --- storing

    def _store(
        self,
        device: Device,
        step: StepInput,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        x: torch.Tensor | None,
        host: str,
    ) -> None:
        h, schedule = self.heads, self.schedule
        moved = old = entering = 0
        for span in step.spans:
            before = span.keys - span.queries
            moved += schedule.hosted(span.keys) - schedule.hosted(before)
            old += max(0, min(schedule.deleted, span.keys) - before)
            entering += schedule.deletes(span)
        schedule.counters["tokens_deleted"] += schedule.deleted * entering
        if moved:
            device.execute(Copy(moved * self.entry.nbytes, DEVICE, host), lambda: self.offload(step, k, v))
        form = self.input if old else self.entry
        op = StoreEntries(
            step.num_tokens,
            h.stored_width,
            step.num_tokens * (self.entry.nbytes + self._columns * WEIGHT_BYTES),
            h.act_bytes,
            step.num_tokens * self.entry.pack_flop,
            format=self.stored_as,
            inputs=old,
            input_width=form.width,
            input_bytes=form.nbytes,
            input_flop=form.pack_flop,
        )
        device.execute(op, lambda: self.put_entries(step, k, v, x))
