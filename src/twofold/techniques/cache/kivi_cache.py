"""The cache layer of KIVI: old entries packed in blocks, the newest in full precision by sequence.

How far a sequence of n entries is packed depends on n alone (see `Layout.packed`), so that no state can
drift: between steps exactly those entries are packed, and a step reads packed what was packed before it and
everything else, its own entries included, in full precision.

Shape letters: T new tokens, N visible entries, K KV heads, D head dimension, B blocks, G tokens or channels
of a group, R tokens of the window.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer, CacheSize, Heads, reserve
from twofold.models.step import StepInput
from twofold.models.weights import TORCH_DTYPES
from twofold.techniques.cache.groups import SCALE_BYTES, Groups, dequantise, quantise
from twofold.techniques.cache.kivi_layout import Layout, Moved

WIDEN_FLOP = {8: 2, 4: 4, 2: 4}
"""Elementwise operations to widen one element: shift and mask (not of whole bytes), multiply, add."""
PACK_FLOP = {8: 7, 4: 9, 2: 9}
"""The same to pack one: minimum, maximum, subtract, multiply, round, clamp (two), then shift and or."""


class KiviCache(CacheLayer):
    """Packed keys and values in blocks, full-precision windows by sequence.

    Tensors, with b tokens a block, V channels in a group of values and w = bits / 8 bytes a code:
    k_codes uint8 [B, b / G, K, D, G · w], k_scale, k_zero fp16 [B, b / G, K, D], a group being G tokens of
    one channel; v_codes uint8 [B, b, K, D / V, V · w], v_scale, v_zero fp16 [B, b, K, D / V], a group being V
    channels of one token; k_window, v_window [max_seqs, R, K, D] in the activations' precision, with entry n
    of a sequence at n mod R.

    counters: shared by the layers of a model (see `KiviScheme`). Not shareable: the newest entries lie
    outside the blocks, so that a block that is full by its slots may still hold nothing.
    """

    shareable = False

    def __init__(self, heads: Heads, block_size: int, layout: Layout, counters: dict[str, int]) -> None:
        super().__init__(heads, block_size)
        self.layout = layout
        self.stored_as = f"kivi-{layout.bits}"
        self.counters = counters
        self.value_group = min(layout.group, heads.v_dim)
        self._tails: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._lengths: dict[int, int] = {}
        self._pending: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

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
        """R keys and R values in the activations' precision."""
        return self.layout.residual * self.heads.stored_width * self.heads.act_bytes

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
        window, full = (size.max_seqs, lay.residual, h.kv_heads), TORCH_DTYPES[h.compute]
        self.tensors = {
            "k_codes": zeros(*keys, lay.group * lay.bits // 8, dtype=torch.uint8),
            "k_scale": zeros(*keys, dtype=torch.float16),
            "k_zero": zeros(*keys, dtype=torch.float16),
            "v_codes": zeros(*values, self.value_group * lay.bits // 8, dtype=torch.uint8),
            "v_scale": zeros(*values, dtype=torch.float16),
            "v_zero": zeros(*values, dtype=torch.float16),
            "k_window": zeros(*window, h.head_dim, dtype=full),
            "v_window": zeros(*window, h.v_dim, dtype=full),
        }

    def _groups(self, name: str) -> Groups:
        """The stored groups of "k" by number of the group, or of "v" by slot."""
        return Groups(*(self.tensors[f"{name}_{part}"].flatten(0, 1) for part in Groups._fields))

    def _store(self, name: str, at: torch.Tensor, x: torch.Tensor) -> None:
        """Quantise `x` [n, …, G] and put it at `at` [n]."""
        stored = self._groups(name)
        for target, source in zip(stored, quantise(x, self.layout.bits), strict=True):
            target.index_copy_(0, at, source)
        self.counters[f"{name}_groups_packed"] += stored.scale[0].numel() * len(at)

    def _load(self, name: str, at: torch.Tensor, out: torch.Tensor) -> None:
        """What is stored at `at` [n], into `out` [n, …, G]."""
        found = Groups(*(part.index_select(0, at) for part in self._groups(name)))
        dequantise(found, self.layout.bits, out)

    # --- appending

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Append k, v [T, K, D]; those that are drafts only when they are committed.

        What attention is to see in full precision is kept until the end of `attend`.
        """
        self._tails = []
        start = 0
        for seq, (queries, entries) in enumerate(step.spans):
            row, table, base = step.rows[seq], step.tables[seq], entries - queries
            assert row not in self._pending, f"row {row} has drafts that were not committed"
            assert base == 0 or self._lengths.get(row) == base, (row, self._lengths.get(row), base)
            new_k, new_v = k[start : start + queries], v[start : start + queries]
            tail = self._tail(row, base, new_k, new_v)
            self._tails.append(tail)
            drafts = step.drafts[seq] if step.drafts else 0
            self._absorb(row, table, base, queries - drafts, tail)
            if drafts:
                self._pending[row] = (table, new_k[-drafts:].clone(), new_v[-drafts:].clone())
            start += queries

    def commit(self, row: int, kept: int, dropped: int) -> None:
        """Append those of the row's drafts that were right; the last `dropped` entries written are void."""
        base, pending = self._lengths[row], self._pending.pop(row, None)
        drafts = 0 if pending is None else len(pending[1])
        assert 0 <= dropped <= drafts, f"{dropped} entries are void, but {drafts} were written as drafts"
        assert kept == base + drafts - dropped, (row, kept, dropped, base)
        if pending is not None and kept > base:
            table, k, v = pending
            self._absorb(row, table, base, kept - base, self._tail(row, base, k, v))

    def release(self, row: int) -> None:
        """Forget the row's sequence; what the tensors hold of it is overwritten by the next one."""
        self._lengths.pop(row, None)
        self._pending.pop(row, None)

    def _tail(
        self, row: int, base: int, new_k: torch.Tensor, new_v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values in full precision, in order, when new ones come behind `base` entries."""
        tails = []
        for name, packed, new in zip("kv", self.layout.packed(base), (new_k, new_v), strict=True):
            if packed < base:
                at = torch.arange(packed, base, device=new.device).remainder_(self.layout.residual)
                new = torch.cat((self.tensors[f"{name}_window"][row].index_select(0, at), new))
            tails.append(new)
        return tails[0], tails[1]

    def _absorb(
        self, row: int, table: torch.Tensor, base: int, count: int, tail: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Append the `count` entries after `base` that `tail` holds: pack what becomes old, keep the rest."""
        lay, end = self.layout, base + count
        self._lengths[row] = end
        (old_k, old_v), (keys, values) = lay.packed(base), lay.packed(end)
        if keys > old_k:
            # [tokens, K, D] to groups of G tokens: [groups, K, D, G]
            groups = tail[0][: keys - old_k].view(-1, lay.group, *tail[0].shape[1:]).permute(0, 2, 3, 1)
            self._store("k", table[old_k : keys : lay.group] // lay.group, groups)
        if values > old_v:
            groups = tail[1][: values - old_v].view(self._value_groups(values - old_v))
            self._store("v", table[old_v:values], groups)
        for name, packed, old, full in zip("kv", (keys, values), (old_k, old_v), tail, strict=True):
            first = max(base, packed)
            if first < end:
                at = torch.arange(first, end, device=full.device).remainder_(lay.residual)
                self.tensors[f"{name}_window"][row].index_copy_(0, at, full[first - old : end - old])

    # --- reading

    def read(self, step: StepInput, seq: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [N, K, D]; zero instead of read where a sliding window hides the oldest entries."""
        assert self._tails, "a step is read between its write and the end of attend"
        lay, h, span, table = self.layout, self.heads, step.spans[seq], step.tables[seq]
        begin = lay.begin(span, h.window)
        keys, values = lay.packed(span.keys - span.queries)
        k, v = self._tails[seq]
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

    def copy_blocks(
        self, pairs: list[tuple[int, int]], other: Mapping[str, torch.Tensor], *, out: bool
    ) -> None:
        """Never called: the engine refuses to swap a cache that is not shareable."""
        raise AssertionError("the newest entries of a sequence are not in its blocks")

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Append k, v and attend: q [T, H, D] to [T, H · D]. Full-precision copies end here."""
        reads = self.layout.reads(step.spans, self.heads.window)
        self.counters["packed_tokens_read"] += reads.packed_values
        self.counters["full_tokens_read"] += reads.full_values
        try:
            return super().attend(device, step, q, k, v)
        finally:
            self._tails = []
