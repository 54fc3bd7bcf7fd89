"""The cache layer of SparF: keys stored twice, by token and by element, and sums of values by block.

Shape letters: N visible entries, n of them kept, H heads, K KV heads, G heads per KV head, D head dimension,
R compared elements, B blocks of b tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from twofold.kernels.reference.attention import attend_sequence
from twofold.kernels.registry import reference
from twofold.models.cache import CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput
from twofold.models.weights import TORCH_DTYPES
from twofold.ops.attention import Attention, CacheWrite, Span, SpanTotals, total_spans
from twofold.ops.sparf_attention import SparfAttention
from twofold.techniques.attention.short import is_generated

SUM_BYTES = 4
"""Of an element of a block's sum of values."""


@dataclass(slots=True)
class Choice:
    """What is compared and kept; the layers of a model share it. compression, group: see `sparf.Sparf`;
    expected_groups: share of the groups that hold a kept key, where nothing is computed. counters: of all
    layers that are run (on a modelled device, of one layer of each kind)."""

    compression: int
    group: int
    expected_groups: float = 0.0
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("queries", "keys_seen", "keys_kept", "groups_seen", "groups_read"), 0
        )
    )

    def rank(self, dim: int) -> int:
        """Elements compared, of `dim`."""
        return max(1, dim // self.compression)

    def kept(self, entries: int) -> int:
        """Keys attended to, of `entries`."""
        return -(-entries // self.compression)

    def groups(self, entries: int) -> int:
        """Groups that hold `entries`."""
        return -(-entries // self.group)


class Counts(NamedTuple):
    """A step's queries that choose, those that do not, and over all sequences the keys that the former keep,
    the groups that these are in, full blocks, and entries behind these."""

    few: SpanTotals
    whole: SpanTotals
    kept: int
    groups: int
    blocks: int
    behind: int


class SparfCache(DenseCache):
    """Tensors beside the dense ones: channels [B, K, D, b], the keys once more with the tokens of an element
    together; sums [B, K, v_dim], float32, the values of each block added up."""

    parts = 4

    def __init__(self, heads: Heads, block_size: int, choice: Choice) -> None:
        super().__init__(heads, block_size)
        self.stored_as = "sparf"
        self.choice = choice
        self._newest: tuple[Sequence[Span], Counts] | None = None

    # --- bytes ---

    def _token_bytes(self) -> int:
        h = self.heads
        return h.kv_heads * (2 * h.head_dim + h.v_dim) * h.act_bytes

    def _sum_bytes(self) -> int:
        return self.heads.kv_heads * self.heads.v_dim * SUM_BYTES

    def block_bytes(self) -> int:
        """Keys twice, values, and their sum."""
        return self.block_size * self._token_bytes() + self._sum_bytes()

    def block_parts(self) -> tuple[int, ...]:
        """None that lie alone: a block's sum is of all its entries."""
        return ()

    def write_bytes(self, step: StepInput) -> int:
        """Entries with both copies of their keys, and a sum for each."""
        return step.num_tokens * (self._token_bytes() + self._sum_bytes())

    def read_bytes(self, step: StepInput) -> int:
        """Of prompts, everything; of queries that choose, what is compared, kept and added up."""
        h, counts = self.heads, self._count(step)
        entries = (counts.whole.keys + counts.kept) * (h.head_dim + h.v_dim)
        compared = counts.few.keys * self.choice.rank(h.head_dim)
        sums = counts.blocks * h.v_dim * SUM_BYTES + counts.behind * h.v_dim * h.act_bytes
        return h.kv_heads * ((entries + compared) * h.act_bytes + sums)

    def _count(self, step: StepInput) -> Counts:
        if self._newest is None or self._newest[0] is not step.spans:
            self._newest = step.spans, self._counts(step)
        return self._newest[1]

    def _counts(self, step: StepInput) -> Counts:
        choice, block = self.choice, self.block_size
        few, whole = [], []
        kept = groups = blocks = behind = 0
        for span in step.spans:
            if not is_short(span):
                whole.append(span)
                continue
            for keys in range(span.keys - span.queries + 1, span.keys + 1):
                few.append(Span(1, keys))
                kept += choice.kept(keys)
                groups += choice.groups(keys)
                blocks += keys // block
                behind += keys % block
        expected = round(choice.expected_groups * groups)
        return Counts(total_spans(few), total_spans(whole), kept, expected, blocks, behind)

    # --- ops ---

    def ops(self, step: StepInput) -> tuple[CacheWrite, Attention]:
        """Writing, and attention with a comparison before it."""
        write, plain = super().ops(step)
        counts, choice = self._count(step), self.choice
        if not self.tensors:  # where something is computed, its kernel counts, in recorded steps too
            self.count(step)
        op = SparfAttention(
            plain.totals,
            plain.heads,
            plain.kv_heads,
            plain.head_dim,
            plain.v_dim,
            plain.cache_bytes,
            plain.compute,
            plain.act_bytes,
            space=plain.space,
            few=counts.few,
            whole=counts.whole,
            rank=choice.rank(plain.head_dim),
            kept=counts.kept,
            groups=counts.groups,
            group=choice.group,
        )
        return write, op

    # --- computing ---

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The dense tensors and the two beside them."""
        super().allocate(size, where)
        h = self.heads
        dtype = TORCH_DTYPES[h.compute]
        shape = (size.num_blocks, h.kv_heads, h.head_dim, size.block_size)
        self.tensors["channels"] = reserve(shape, dtype, where)
        self.tensors["sums"] = reserve((size.num_blocks, h.kv_heads, h.v_dim), torch.float32, where)

    def store(self, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Both copies of keys, values, and the sums of the blocks that they are put in."""
        super().store(slots, k, v)
        block, at = slots // self.block_size, slots % self.block_size
        self.tensors["channels"][block, :, :, at] = k
        # Sums count once a block is full of visible entries; what was voided has been written over by then.
        self.tensors["sums"][block] = self.tensors["v"][block].float().sum(1)

    def attend_one(self, q: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """q [H, D] over the entries in `slots` [N] to [H · v_dim]."""
        h, choice, entries = self.heads, self.choice, len(slots)
        grouped = q.view(h.kv_heads, -1, h.head_dim)  # [K, G, D]
        size = grouped.abs()
        blocks = slots[:: self.block_size] // self.block_size
        best = size.sum(1).topk(choice.rank(h.head_dim), -1).indices  # [K, R]
        some = grouped.gather(2, best[:, None].expand(-1, grouped.shape[1], -1))
        heads = torch.arange(h.kv_heads, device=q.device)
        stored = self.tensors["channels"][blocks[:, None, None], heads[:, None], best]  # [B, K, R, b]
        few = stored.permute(1, 2, 0, 3).flatten(2)[..., :entries]
        # The scores of some elements are as wide apart as those of all at a lower temperature.
        part = some.abs().sum(-1) / size.sum(-1).clamp(min=1e-6)
        scores = torch.bmm(some, few).float() * (h.scale / part.clamp(min=1e-6).sqrt()[..., None])
        guess = scores.softmax(-1)
        kept = guess.sum(1).topk(choice.kept(entries), -1).indices.sort().values  # [K, n]
        share = guess.gather(2, kept[:, None].expand(-1, guess.shape[1], -1)).sum(-1, keepdim=True)
        chosen = slots[kept]
        k = self.tensors["k"].flatten(0, 1)[chosen, heads[:, None]]  # [K, n, D]
        v = self.tensors["v"].flatten(0, 1)[chosen, heads[:, None]]
        exact = torch.bmm(grouped, k.transpose(1, 2)).mul_(h.scale)
        if h.softcap is not None:
            exact = exact.div_(h.softcap).tanh_().mul_(h.softcap)
        found = torch.bmm(exact.float().softmax(-1).to(v.dtype), v).float()
        full = entries // self.block_size
        behind = self.tensors["v"].flatten(0, 1)[slots[full * self.block_size :]].float()
        mean = (self.tensors["sums"][blocks[:full]].sum(0) + behind.sum(0))[:, None] / entries
        self._count_groups(kept, entries)
        out: torch.Tensor = (share * found + (1 - share) * mean).to(q.dtype).flatten()
        return out

    def count(self, step: StepInput) -> None:
        """Add the step's queries and keys to the counters."""
        counts, total = self._count(step), self.choice.counters
        total["queries"] += counts.few.queries
        total["keys_seen"] += counts.few.keys
        total["keys_kept"] += counts.kept

    def _count_groups(self, kept: torch.Tensor, entries: int) -> None:
        """kept [K, n]: ascending entries, so that those of a group are neighbours."""
        groups, count = kept // self.choice.group, self.choice.counters
        heads = groups.shape[0]
        count["groups_seen"] += self.choice.groups(entries) * heads
        count["groups_read"] += heads + int((groups[:, 1:] != groups[:, :-1]).sum())


def is_short(span: Span) -> bool:
    """Whether each query of `span` chooses what it attends to."""
    return span.queries == 1 or is_generated(span)


@reference(SparfAttention)
def sparf_attention(
    op: SparfAttention, q: torch.Tensor, cache: SparfCache, step: StepInput, *new: torch.Tensor
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim], sequence by sequence."""
    out = q.new_empty(q.shape[0], op.heads * op.v_dim)
    cache.count(step)
    start = 0
    for seq, span in enumerate(step.spans):
        end = start + span.queries
        if is_short(span):
            before = span.keys - span.queries
            for row in range(span.queries):
                out[start + row] = cache.attend_one(q[start + row], step.tables[seq][: before + row + 1])
        else:
            k, v = cache.read(step, seq, *new)
            out[start:end] = attend_sequence(q[start:end], k, v, cache.heads)
        start = end
    return out
