"""Where KIVI stores entries: old ones packed in blocks, the newest in full precision by sequence.

How many of a sequence's n entries are packed depends on n alone (see `Layout.packed`), so that no state can
drift: between steps exactly those entries are packed, and a step reads what was packed before it as packed
and everything else, its own entries included, in full precision.

Shape letters: T new tokens, N visible entries, K KV heads, D head dimension, B blocks, G tokens or channels
of a group, R tokens of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput, flat_slots
from twofold.models.weights import TORCH_DTYPES
from twofold.techniques.cache.groups import SCALE_BYTES, Groups, dequantise, quantise
from twofold.techniques.cache.kivi_layout import Layout, Moved

WIDEN_FLOP = {8: 2, 4: 4, 2: 4}
"""Elementwise operations to widen one element: shift and mask (not of whole bytes), multiply, add."""
PACK_FLOP = {8: 7, 4: 9, 2: 9}
"""The same to pack one: minimum, maximum, subtract, multiply, round, clamp (two), then shift and or."""


class KiviStore(CacheLayer):
    """Packed keys and values in blocks, full-precision windows by sequence.

    Tensors, with b tokens a block, V channels in a group of values and w = bits / 8 bytes a code:
    k_codes uint8 [B, b / G, K, D, G · w], k_scale, k_zero fp16 [B, b / G, K, D], a group being G tokens of
    one channel; v_codes uint8 [B, b, K, D / V, V · w], v_scale, v_zero fp16 [B, b, K, D / V], a group being V
    channels of one token; k_window [max_seqs, K, D, R], v_window [max_seqs, K, R, D] in the activations'
    precision, with entry n of a sequence at n mod R; where something drafts, k_drafts, v_drafts
    [max_seqs, max_drafts, K, D]: guesses that are being verified.

    lengths: entries of each row that are stored, int32 [max_seqs]. Not shareable: the newest entries lie
    outside the blocks, so that a block that is full by its slots may still hold nothing.
    """

    shareable = False
    attends_first = True

    def __init__(self, heads: Heads, block_size: int, layout: Layout) -> None:
        super().__init__(heads, block_size)
        self.layout = layout
        self.stored_as = f"kivi-{layout.bits}"
        self.value_group = min(layout.group, heads.v_dim)
        self.lengths = torch.zeros(0, dtype=torch.int32)

    def _value_groups(self, tokens: int) -> tuple[int, int, int, int]:
        """The shape of `tokens` tokens' values in groups."""
        h = self.heads
        return tokens, h.kv_heads, h.v_dim // self.value_group, self.value_group

    # --- bytes

    @property
    def _packed_key_bytes(self) -> int:
        """Bytes of one group of keys: G tokens of all channels."""
        h, lay = self.heads, self.layout
        return h.kv_heads * h.head_dim * (lay.group * lay.bits // 8 + SCALE_BYTES)

    @property
    def _packed_value_bytes(self) -> int:
        """Bytes of one token's packed values."""
        h = self.heads
        return h.kv_heads * (h.v_dim * self.layout.bits // 8 + h.v_dim // self.value_group * SCALE_BYTES)

    def block_bytes(self) -> int:
        """Codes, scales and zero points of one block."""
        groups = self.block_size // self.layout.group
        return groups * self._packed_key_bytes + self.block_size * self._packed_value_bytes

    def sequence_bytes(self) -> int:
        """R keys and R values in the activations' precision, and as many drafts as there may be."""
        tokens = self.layout.residual + self.max_drafts
        return tokens * self.heads.stored_width * self.heads.act_bytes

    def _bytes(self, moved: Moved) -> int:
        h = self.heads
        packed = moved.packed_keys // self.layout.group * self._packed_key_bytes
        packed += moved.packed_values * self._packed_value_bytes
        return (
            packed + (moved.full_keys * h.head_dim + moved.full_values * h.v_dim) * h.kv_heads * h.act_bytes
        )

    def _packed_elements(self, moved: Moved) -> int:
        h = self.heads
        return h.kv_heads * (moved.packed_keys * h.head_dim + moved.packed_values * h.v_dim)

    def read_bytes(self, step: StepInput) -> int:
        """Visible packed entries (keys in whole groups) with their scales, and the rest in full precision."""
        return self._bytes(self.layout.reads(step.spans, self.heads.window))

    def write_bytes(self, step: StepInput) -> int:
        """What enters the windows, and what becomes packed because of the new entries."""
        return self._bytes(self.layout.writes(step.spans))

    def widen_flop(self, step: StepInput) -> int:
        """WIDEN_FLOP per packed element that is read."""
        reads = self.layout.reads(step.spans, self.heads.window)
        return self._packed_elements(reads) * WIDEN_FLOP[self.layout.bits]

    def pack_flop(self, step: StepInput) -> int:
        """PACK_FLOP per element that becomes packed."""
        return self._packed_elements(self.layout.writes(step.spans)) * PACK_FLOP[self.layout.bits]

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The tensors named above, zero."""
        h, lay = self.heads, self.layout
        assert not h.shared_kv, "latent attention has no real kernels"
        assert size.block_size == self.block_size, (size, self.block_size)

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return reserve(shape, dtype, where)

        keys = (size.num_blocks, self.block_size // lay.group, h.kv_heads, h.head_dim)
        values = (size.num_blocks, self.block_size, h.kv_heads, h.v_dim // self.value_group)
        rows, full = (size.max_seqs, h.kv_heads), TORCH_DTYPES[h.compute]
        drafts = (size.max_seqs, self.max_drafts, h.kv_heads)
        self.tensors = {
            "k_codes": zeros(*keys, lay.group * lay.bits // 8, dtype=torch.uint8),
            "k_scale": zeros(*keys, dtype=torch.float16),
            "k_zero": zeros(*keys, dtype=torch.float16),
            "v_codes": zeros(*values, self.value_group * lay.bits // 8, dtype=torch.uint8),
            "v_scale": zeros(*values, dtype=torch.float16),
            "v_zero": zeros(*values, dtype=torch.float16),
            "k_window": zeros(*rows, h.head_dim, lay.residual, dtype=full),
            "v_window": zeros(*rows, lay.residual, h.v_dim, dtype=full),
        }
        if self.max_drafts:
            self.tensors["k_drafts"] = zeros(*drafts, h.head_dim, dtype=full)
            self.tensors["v_drafts"] = zeros(*drafts, h.v_dim, dtype=full)
        self.lengths = torch.zeros(size.max_seqs, dtype=torch.int32)

    def _groups(self, name: str) -> Groups:
        """The stored groups of "k" by number of the group, or of "v" by slot."""
        return Groups(*(self.tensors[f"{name}_{part}"].flatten(0, 1) for part in Groups._fields))

    def _store(self, name: str, at: torch.Tensor, x: torch.Tensor) -> None:
        """Quantise `x` [n, …, G] and put it at `at` [n]."""
        stored = self._groups(name)
        for target, source in zip(stored, quantise(x, self.layout.bits), strict=True):
            target.index_copy_(0, at, source)

    def _load(self, name: str, at: torch.Tensor, out: torch.Tensor) -> None:
        """What is stored at `at` [n], into `out` [n, …, G]."""
        found = Groups(*(part.index_select(0, at) for part in self._groups(name)))
        out.copy_(dequantise(found, self.layout.bits))

    # --- appending

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Append k, v [T, K, D]; those that are drafts only when they are committed."""
        start = 0
        for seq, (queries, entries) in enumerate(step.spans):
            row, base, end = step.rows[seq], entries - queries, start + queries
            drafts = step.drafts[seq] if step.drafts else 0
            assert drafts <= self.max_drafts, (drafts, self.max_drafts)
            assert base in (0, int(self.lengths[row])), (row, self.lengths[row], base)
            self._absorb(row, step.tables[seq], base, k[start : end - drafts], v[start : end - drafts])
            if drafts:
                self.tensors["k_drafts"][row, :drafts] = k[end - drafts : end]
                self.tensors["v_drafts"][row, :drafts] = v[end - drafts : end]
            start = end

    def commit(self, row: int, kept: int, table: Sequence[int]) -> None:
        """Append those of the row's drafts that were right."""
        base = int(self.lengths[row])
        assert 0 <= kept - base <= self.max_drafts, f"{kept} entries, {base} before the drafts"
        self._append_drafts(row, base, kept, table)

    def _append_drafts(self, row: int, base: int, kept: int, table: Sequence[int]) -> None:
        if kept > base:
            k, v = (self.tensors[f"{name}_drafts"][row, : kept - base] for name in "kv")
            self._absorb(row, flat_slots(table, self.block_size, kept, k.device), base, k, v)

    def release(self, row: int) -> None:
        """Forget the row's sequence; what the tensors hold of it is overwritten by the next one."""
        self.lengths[row] = 0

    def _tail(
        self, row: int, base: int, new_k: torch.Tensor, new_v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values [·, K, D] in full precision, in order, when new ones come behind `base`
        entries."""
        keys, values = self.layout.packed(base)
        residual, where = self.layout.residual, new_k.device
        if keys < base:
            at = torch.arange(keys, base, device=where).remainder_(residual)
            old = self.tensors["k_window"][row].index_select(2, at).permute(2, 0, 1)
            new_k = torch.cat((old, new_k))
        if values < base:
            at = torch.arange(values, base, device=where).remainder_(residual)
            old = self.tensors["v_window"][row].index_select(1, at).transpose(0, 1)
            new_v = torch.cat((old, new_v))
        return new_k, new_v

    def _absorb(
        self, row: int, table: torch.Tensor, base: int, new_k: torch.Tensor, new_v: torch.Tensor
    ) -> None:
        """Append new_k, new_v [n, K, D] behind `base` entries: pack what becomes old, keep the rest."""
        lay, end = self.layout, base + len(new_k)
        k, v = self._tail(row, base, new_k, new_v)
        self.lengths[row] = end
        (old_k, old_v), (keys, values) = lay.packed(base), lay.packed(end)
        if keys > old_k:
            # [tokens, K, D] to groups of G tokens: [groups, K, D, G]
            groups = k[: keys - old_k].view(-1, lay.group, *k.shape[1:]).permute(0, 2, 3, 1)
            self._store("k", table[old_k : keys : lay.group] // lay.group, groups)
        if values > old_v:
            groups = v[: values - old_v].view(self._value_groups(values - old_v))
            self._store("v", table[old_v:values], groups)
        if (first := max(base, keys)) < end:
            at = torch.arange(first, end, device=k.device).remainder_(lay.residual)
            self.tensors["k_window"][row].index_copy_(2, at, k[first - old_k :].permute(1, 2, 0))
        if (first := max(base, values)) < end:
            at = torch.arange(first, end, device=v.device).remainder_(lay.residual)
            self.tensors["v_window"][row].index_copy_(1, at, v[first - old_v :].transpose(0, 1))

    # --- reading

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [N, K, D] before the step's own `new` k, v [T, K, D] are stored; zero instead of
        read where a sliding window hides the oldest entries."""
        lay, h, span, table = self.layout, self.heads, step.spans[seq], step.tables[seq]
        start = sum(s.queries for s in step.spans[:seq])
        begin, base = lay.begin(span, h.window), span.keys - span.queries
        keys, values = lay.packed(base)
        k, v = self._tail(step.rows[seq], base, *(x[start : start + span.queries] for x in new))
        if keys:
            first = min(begin // lay.group * lay.group, keys)
            # Groups run along tokens, so that keys come out transposed: [K, D, N].
            out = k.new_empty(h.kv_heads, h.head_dim, span.keys)
            out[..., :first] = 0
            if first < keys:
                groups = out[..., first:keys].view(*out.shape[:2], -1, lay.group).permute(2, 0, 1, 3)
                self._load("k", table[first : keys : lay.group] // lay.group, groups)
            out[..., keys:] = k.permute(1, 2, 0)
            k = out.permute(2, 0, 1)
        if values:
            first = min(begin, values)
            out = v.new_empty(span.keys, h.kv_heads, h.v_dim)
            out[:first] = 0
            if first < values:
                groups = out[first:values].view(self._value_groups(values - first))
                self._load("v", table[first:values], groups)
            out[values:] = v
            v = out
        return k, v
