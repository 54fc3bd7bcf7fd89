"""The cache layer of attention with retrieval: a static window on the device, all other entries in host
memory, indexed by graphs that are searched for the keys with the largest inner products.

Between steps each entry lies in one place, by its number alone (see `Layout`). A prompt attends to
everything, and its last queries link the keys that have left the window; a short step searches, and attends
to the window and what it finds, as one softmax over both.

Shape letters: T new tokens, N visible entries, K KV heads, H heads, G heads per KV head, D head dimension, W
entries of the window, L entries of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.devices.base import Device
from twofold.kernels.cpu import native
from twofold.kernels.reference.attention import attend_sequence
from twofold.models.cache import Heads
from twofold.models.step import StepInput
from twofold.ops.attention import CacheWrite, Span, SpanTotals, span_pairs
from twofold.ops.base import DEVICE, HOST
from twofold.ops.movement import Copy
from twofold.techniques.attention.retrieval_layout import Layout
from twofold.techniques.attention.retrieval_ops import GraphLink, GraphSearch, SplitAttention
from twofold.techniques.attention.retrieval_store import RetrievalStore

Found = list[torch.Tensor | None]
"""By sequence, the numbers of the keys that its queries found, int32 [K, G · T, top_k]; None: it attends to
everything."""


class RetrievalCache(RetrievalStore):
    """A store whose queries search, or attend to everything."""

    def __init__(self, heads: Heads, block_size: int, layout: Layout) -> None:
        super().__init__(heads, block_size, layout)
        self._stream: object = None

    # --- ops

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Move what leaves the window, store what is new, link, search, attend, learn."""
        h, lay = self.heads, self.layout
        host = HOST if HOST in device.memory else DEVICE
        context = getattr(device, "context", None)
        self._stream = context.stream if context is not None and context.native is native() else None
        moved = sum(lay.hosted(s.keys) - lay.hosted(s.keys - s.queries) for s in step.spans)
        lay.counters["entries_offloaded"] += moved
        if moved:
            copy = Copy(moved * self._entry_bytes, DEVICE, host)
            device.execute(copy, lambda: self._offload(step, k, v))
        stored = step.num_tokens * self._entry_bytes
        write = CacheWrite(step.num_tokens, h.stored_width, stored, h.act_bytes, format="retrieval")
        device.execute(write, self, step, k, v)
        searching = [s for s in step.spans if lay.searches(s)]
        found: Found = [None] * len(step.spans)
        if searching:
            fresh = sum(lay.unlinked(s) for s in searching)
            if fresh:
                op = self._link(fresh, 0, fresh * lay.search_list, host)
                device.execute(op, lambda: self._extend(step))
            op_search = self._search_op(searching, host)
            found = device.execute(op_search, lambda: self._search(step, q)) or found
        out: torch.Tensor | None = device.execute(
            self._attention_op(step.spans, host), q, lambda queries: self._attend(step, queries, found)
        )
        teaching = [s for s in step.spans if lay.teaches(s)]
        if teaching:
            fresh = sum(lay.unlinked(s) for s in teaching)
            pairs = sum(lay.teaches(s) * h.heads * lay.hosted(s.keys) for s in teaching)
            scanned = sum(lay.unlinked(s) * min(lay.hosted(s.keys), lay.build_list) for s in teaching)
            device.execute(self._link(fresh, pairs, scanned, host), lambda: self._learn(step, q))
        return out

    def _link(self, keys: int, pairs: int, scanned: int, host: str) -> GraphLink:
        h, width = self.heads, self.layout.width
        return GraphLink(keys, h.kv_heads, pairs, scanned * h.kv_heads, h.head_dim, width, h.act_bytes, host)

    def _search_op(self, spans: Sequence[Span], host: str) -> GraphSearch:
        h, lay = self.heads, self.layout
        searches = sum(s.queries for s in spans) * h.heads
        scanned = sum(s.queries * lay.scanned(s) for s in spans) * h.heads
        lay.counters["searches"] += searches
        lay.counters["keys_searched"] += sum(s.queries * lay.hosted(s.keys) for s in spans) * h.heads
        lay.counters["keys_retrieved"] += searches * lay.top_k
        return GraphSearch(searches, scanned, searches * lay.top_k, h.head_dim, h.act_bytes, host)

    def _attention_op(self, spans: Sequence[Span], host: str) -> SplitAttention:
        h, lay = self.heads, self.layout
        queries = keys = pairs = near = far = longest = singles = single_keys = 0
        for span in spans:
            queries += span.queries
            if lay.searches(span):
                window = span.keys - lay.hosted(span.keys)
                seen, computed = window + lay.top_k, span.queries * (window + lay.top_k)
                near += window * self._entry_bytes
                far += span.queries * h.heads * lay.top_k * (h.head_dim + h.v_dim) * h.act_bytes
            else:
                seen, computed = span_pairs(span.queries, span.keys)
                old = lay.hosted(span.keys - span.queries)
                near += (span.keys - old) * self._entry_bytes
                far += old * self._entry_bytes
            keys, pairs, longest = keys + seen, pairs + computed, max(longest, seen)
            if span.queries == 1:
                singles, single_keys = singles + 1, single_keys + seen
        totals = SpanTotals(len(spans), queries, keys, pairs, longest, singles, single_keys)
        return SplitAttention(
            totals,
            h.heads,
            h.kv_heads,
            h.head_dim,
            h.v_dim,
            near,
            h.compute,
            h.act_bytes,
            host_bytes=far,
            host=host,
        )

    # --- computing

    def _group(self, q: torch.Tensor) -> torch.Tensor:
        """[T, H, D] to [K, G · T, D], contiguous in float32 on the host."""
        h = self.heads
        grouped = q.view(len(q), h.kv_heads, -1, h.head_dim).permute(1, 2, 0, 3)
        return grouped.reshape(h.kv_heads, -1, h.head_dim).to("cpu", torch.float32).contiguous()

    def _extend(self, step: StepInput) -> None:
        for seq, (row, _, _, after) in enumerate(step.parts()):
            hosted = self.layout.hosted(after)
            if self.layout.searches(step.spans[seq]):
                for graph in self._graphs[row]:
                    if graph.count < hosted:
                        graph.extend(hosted, self.layout.search_list)

    def _search(self, step: StepInput, q: torch.Tensor | None) -> Found:
        assert q is not None
        lay = self.layout
        found: Found = []
        for span, (row, start, before, after) in zip(step.spans, step.parts(), strict=True):
            if not lay.searches(span):
                found.append(None)
                continue
            queries, best = self._group(q[start : start + after - before]), []
            for graph, each in zip(self._graphs[row], queries, strict=True):
                scanned = graph.scanned
                best.append(graph.search(each, lay.search_list, lay.top_k, self._stream))
                lay.keys_scanned += graph.scanned - scanned
            keys = torch.stack(best)
            keys[keys >= lay.hosted(after)] = -1  # linked by drafts that were voided
            found.append(keys)
        return found

    def _attend(self, step: StepInput, q: torch.Tensor, found: Found) -> torch.Tensor:
        out = q.new_empty(len(q), self.heads.heads * self.heads.v_dim)
        for seq, (row, start, before, after) in enumerate(step.parts()):
            end = start + after - before
            keys = found[seq]
            if keys is None:
                out[start:end] = attend_sequence(q[start:end], *self.read(step, seq), self.heads)
            else:
                out[start:end] = self._attend_found(q[start:end], row, after, keys)
        return out

    def _attend_found(self, q: torch.Tensor, row: int, entries: int, found: torch.Tensor) -> torch.Tensor:
        """Attention of q [T, H, D] to the window and to the keys `found` [K, G · T, top_k] of the host, which
        all queries may see."""
        h, lay = self.heads, self.layout
        tokens, hosted = len(q), lay.hosted(entries)
        near = torch.cat(
            (
                torch.arange(lay.initial, device=q.device),
                self._places(lay.initial + hosted, entries, q.device),
            )
        )
        k, v = (self.tensors[f"{name}_window"][row].index_select(0, near).transpose(0, 1) for name in "kv")
        grouped = q.view(tokens, h.kv_heads, -1, h.head_dim).permute(1, 2, 0, 3).flatten(1, 2)  # [K, G·T, D]
        at = found.clamp(min=0).long()
        heads = torch.arange(h.kv_heads)[:, None, None]
        far_k, far_v = (self.host[name][row][heads, at].to(q.device, q.dtype) for name in "kv")
        scores = torch.cat(
            (torch.bmm(grouped, k.transpose(1, 2)), torch.matmul(far_k, grouped[..., None]).squeeze(-1)), -1
        ).mul_(h.scale)
        if h.softcap is not None:
            scores = scores.div_(h.softcap).tanh_().mul_(h.softcap)
        width = len(near)
        if tokens > 1:  # of the window, the last `tokens` entries are the queries' own
            row_of = torch.arange(tokens, device=q.device)
            hidden = torch.arange(width, device=q.device)[None] > (width - tokens + row_of)[:, None]
            scores[..., :width].view(h.kv_heads, -1, tokens, width).masked_fill_(hidden, float("-inf"))
        scores[..., width:].masked_fill_((found < 0).to(q.device), float("-inf"))
        weights = scores.float().softmax(-1).to(v.dtype)
        out = torch.bmm(weights[..., :width], v)
        out += torch.matmul(weights[..., None, width:], far_v).squeeze(-2)
        return out.view(h.kv_heads, -1, tokens, h.v_dim).permute(2, 0, 1, 3).reshape(tokens, -1)

    def _learn(self, step: StepInput, q: torch.Tensor | None) -> None:
        assert q is not None
        lay = self.layout
        for span, (row, start, before, after) in zip(step.spans, step.parts(), strict=True):
            if count := lay.teaches(span):
                end = start + after - before
                for graph, each in zip(self._graphs[row], self._group(q[end - count : end]), strict=True):
                    graph.learn(each, lay.hosted(after), lay.query_neighbours, lay.build_list)
