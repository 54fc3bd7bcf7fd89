"""Where ZipVL stores entries: two bits of every element in blocks, two more of important entries in a pool.

Shape letters: T new tokens, N visible entries, K KV heads, D head dimension, W elements of an entry (keys and
values of all KV heads), B blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput
from twofold.techniques.cache.groups import SCALE_BYTES
from twofold.techniques.cache.zipvl_codes import quantise_rows, widen_rows
from twofold.techniques.cache.zipvl_ops import Chosen
from twofold.techniques.cache.zipvl_pool import Pool


@dataclass(slots=True)
class Zipped:
    """What the layers of a model share. tau, probes, high_share: see `zipvl.ZipVL`; share: of a prompt's
    tokens, how many are important where nothing is computed; counters: see `zipvl.ZipScheme`."""

    tau: float
    probes: int
    high_share: float
    share: float = 1.0
    pool: Pool = field(default_factory=Pool)
    layers: list[ZipStore] = field(default_factory=list)
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("tokens_probed", "tokens_important", "entries_important"), 0)
    )


class ZipStore(CacheLayer):
    """Tensors: codes uint8 [B, b, W / 4] of b tokens a block, two bits an element; scales fp16 [B, b, 2, 2K],
    scale and zero point of every head's key and value; rows int32 [B, b], the pool's row with the two further
    bits of every element, -1 for none; channels fp16 [max_seqs, W], what the elements of a sequence's entries
    are divided by; the first layer of a model also holds the pool, uint8 [rows, W / 4].

    Not shareable: entries are divided by what belongs to their sequence.
    """

    shareable = False
    attends_first = True

    def __init__(self, heads: Heads, block_size: int, shared: Zipped) -> None:
        super().__init__(heads, block_size)
        self.shared = shared
        self.stored_as = "zipvl"
        self._held: dict[int, dict[int, int]] = {}
        shared.layers.append(self)

    # --- counting

    @property
    def _code_bytes(self) -> int:
        """Bytes of two bits of each element of an entry."""
        return self.heads.stored_width // 4

    @property
    def _entry_bytes(self) -> int:
        """Bytes of an entry without the low bits: codes, scales and zero points, the pool's row."""
        return self._code_bytes + 2 * self.heads.kv_heads * SCALE_BYTES + 4

    @property
    def _rows_per_block(self) -> int:
        """Rows of the pool that come with a block."""
        return math.ceil(self.block_size * self.shared.high_share)

    def block_bytes(self) -> int:
        """A block of entries, and the rows of the pool that come with it."""
        return self.block_size * self._entry_bytes + self._rows_per_block * self._code_bytes

    def sequence_bytes(self) -> int:
        """What the channels of a sequence are divided by."""
        return 2 * self.heads.stored_width

    def _bytes(self, entries: int, high: int) -> int:
        return entries * self._entry_bytes + high * self._code_bytes

    def _high(self, row: int | None, entries: int) -> int:
        """How many of a sequence's `entries` have low bits: as it is, or as is expected."""
        if row is None:
            return round(entries * min(self.shared.share, self.shared.high_share))
        return len(self._held.get(row, ()))

    def read_bytes(self, step: StepInput) -> int:
        """What was stored before the step, as stored; the step's own entries as they are."""
        total = 0
        for i, (queries, entries) in enumerate(step.spans):
            row = step.rows[i] if step.rows else None
            total += self._bytes(entries - queries, self._high(row, entries - queries))
        return total + step.num_tokens * self.heads.stored_width * self.heads.act_bytes

    def write_bytes(self, step: StepInput) -> int:
        """Every new entry with its low bits: what is written at most."""
        return self._bytes(step.num_tokens, step.num_tokens)

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The tensors named above, zero; the pool with the first layer."""
        h, shape = self.heads, (size.num_blocks, size.block_size)
        self.tensors = {
            "codes": reserve((*shape, self._code_bytes), torch.uint8, where),
            "scales": reserve((*shape, 2, 2 * h.kv_heads), torch.float16, where),
            "rows": reserve(shape, torch.int32, where),
            "channels": reserve((size.max_seqs, h.stored_width), torch.float16, where),
        }
        self.tensors["rows"].fill_(-1)
        if self is self.shared.layers[0]:
            rows = sum(layer._rows_per_block for layer in self.shared.layers) * size.num_blocks
            self.shared.pool.allocate(rows, self._code_bytes, where)
            self.tensors["pool"] = self.shared.pool.rows
        self._held = {}

    def release(self, row: int) -> None:
        """The row's sequence gives its rows of the pool back."""
        self.shared.pool.give_back(self._held.pop(row, ()))

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor, chosen: Chosen | None = None) -> None:
        """Store k, v [T, K, D]; chosen: which of each sequence's are important."""
        assert step.slots is not None
        h, t = self.heads, self._flat()
        entries = torch.cat((k.flatten(1), v.flatten(1)), 1).float()  # [T, W]
        stale = t["rows"].index_select(0, step.slots)
        rows = torch.full_like(stale, -1)
        start = 0
        for seq, (queries, keys) in enumerate(step.spans):
            row, part = step.rows[seq], slice(start, start + queries)
            if keys == queries:
                self.release(row)
                # Entries are quantised one by one: channels that are always large must not fill the range.
                most = entries[part].abs().amax(0).clamp(1e-4, 6e4)
                self.tensors["channels"][row] = most.sqrt().half()
            else:
                self._forget(row, stale[part], step.slots[part])
            entries[part] /= self.tensors["channels"][row].float()
            important = None if chosen is None else chosen[seq]
            found = torch.arange(queries, device=rows.device) if important is None else important
            granted = self._take(row, step.slots[start + found])
            rows[start + found[: len(granted)]] = torch.tensor(granted, dtype=rows.dtype, device=rows.device)
            start += queries
        is_high = rows >= 0
        grouped = entries.view(len(entries), 2 * h.kv_heads, -1)
        upper, lower, scales = quantise_rows(grouped, is_high)
        for name, stored in (("codes", upper), ("scales", scales), ("rows", rows)):
            t[name].index_copy_(0, step.slots, stored)
        self.shared.pool.rows.index_copy_(0, rows[is_high].long(), lower[is_high])

    def _take(self, row: int, slots: torch.Tensor) -> list[int]:
        """Rows of the pool for the entries of a sequence at `slots`, or for the first of them where too
        few are left."""
        granted = self.shared.pool.take(len(slots))
        self._held.setdefault(row, {}).update(zip(granted, slots.tolist(), strict=False))
        return granted

    def _forget(self, row: int, stale: torch.Tensor, slots: torch.Tensor) -> None:
        """Entries of the row at `slots` are overwritten, drafts that were wrong: their rows of the pool,
        `stale`, are free. What another sequence left behind in those slots is none of theirs."""
        held = self._held.get(row, {})
        gone = [r for r, slot in zip(stale.tolist(), slots.tolist(), strict=True) if held.get(r) == slot]
        for pool_row in gone:
            del held[pool_row]
        self.shared.pool.give_back(gone)

    def _flat(self) -> dict[str, torch.Tensor]:
        """What lies in blocks, by slot."""
        return {name: self.tensors[name].flatten(0, 1) for name in ("codes", "scales", "rows")}

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [N, K, D]: what was stored before the step, and its own `new` k, v [T, K, D]."""
        h, span = self.heads, step.spans[seq]
        start = sum(s.queries for s in step.spans[:seq])
        k, v = (x[start : start + span.queries] for x in new)
        old = span.keys - span.queries
        if not old:
            return k, v
        slots = step.tables[seq][:old]
        t = {name: stored.index_select(0, slots) for name, stored in self._flat().items()}
        at = (t["rows"] >= 0).nonzero().flatten()
        lower = self.shared.pool.rows.index_select(0, t["rows"].index_select(0, at).long())
        numbers = widen_rows(t["codes"], lower, at, t["scales"], 2 * h.kv_heads)
        numbers *= self.tensors["channels"][step.rows[seq]].float().view(1, 2 * h.kv_heads, -1)
        keys, values = numbers.to(k.dtype).chunk(2, 1)
        return torch.cat((keys, k)), torch.cat((values, v))
