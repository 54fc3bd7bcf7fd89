"""What ALISA stores of a sequence: its newest entries on the device, older ones on the host, the inputs of
the oldest, from which these are recomputed once they are deleted, and the newest attention weights.

Shape letters: T new tokens, N visible entries, W numbers of an entry (keys and values of all KV heads), H
numbers of an input, B blocks, b tokens of a block, L tokens of the longest sequence.
"""

from __future__ import annotations

import math

import torch

from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput
from twofold.ops.base import DEVICE
from twofold.techniques.cache.alisa_ops import WEIGHT_BYTES
from twofold.techniques.cache.alisa_rows import Parts, RowFormat, joined, put, take
from twofold.techniques.cache.alisa_schedule import Schedule

_CPU = torch.device("cpu")


class AlisaStore(CacheLayer):
    """Tensors: ring_… [max_seqs, p1, …], a ring of the newest entries (longer by the most drafts, so that
    what drafts push out is not lost when they are voided); inputs_… [max_seqs, deleted, …], of the oldest
    tokens; weights fp16 [B, b, steps], a ring of columns: the attention that an entry received from the query
    at each of the last `local_steps` positions, summed over heads. Host memory: entries by number [max_seqs,
    L, …], which takes pages as it is written, and apart from these the entries that phase III deletes.

    kv_bits: 8, or 16 for entries and inputs as they are computed with. Not shareable: entries lie by
    sequence.
    """

    shareable = False

    def __init__(self, heads: Heads, block_size: int, schedule: Schedule, kv_bits: int) -> None:
        super().__init__(heads, block_size)
        self.schedule = schedule
        self.kv_bits = kv_bits
        self.stored_as = "alisa" if kv_bits == 8 else ""
        self.wants_inputs = schedule.deleted > 0
        self.entry = self._format(heads.stored_width)
        self.host: Parts = {}
        self.doomed: dict[int, Parts] = {}
        """By row, the entries on the host that phase III deletes."""

    def _format(self, width: int) -> RowFormat:
        h = self.heads
        return RowFormat(
            width, math.gcd(width, h.head_dim) if self.kv_bits == 8 else 0, h.compute, h.act_bytes
        )

    @property
    def space(self) -> str:
        """The device's memory: the cache says itself what lies on the host."""
        return DEVICE

    @space.setter
    def space(self, where: str) -> None:
        if where != DEVICE:
            raise ValueError(
                f"technique alisa moves its cache to the host itself, and cannot be placed in {where!r} "
                "memory; keep the cache on the device (cache_device=1)"
            )

    # --- bytes

    @property
    def input(self) -> RowFormat:
        """How the inputs of a token are stored."""
        assert self.projection is not None, "a cache that wants inputs belongs to an attention sublayer"
        return self._format(self.projection.spec.hidden)

    @property
    def _turn(self) -> int:
        """Length of the ring of the newest entries."""
        return self.schedule.p1 + self.max_drafts

    @property
    def _columns(self) -> int:
        """Columns of the ring of attention weights."""
        return self.schedule.local_steps + self.max_drafts

    def block_bytes(self) -> int:
        """Attention weights: all else lies by sequence."""
        return self.block_size * self._columns * WEIGHT_BYTES

    def sequence_bytes(self) -> int:
        """The newest entries, and the inputs of the oldest."""
        inputs = self.schedule.deleted * self.input.nbytes if self.wants_inputs else 0
        return self._turn * self.entry.nbytes + inputs

    def host_bytes(self, entries: int) -> int:
        """Bytes of host memory for a sequence of `entries`."""
        return (self.schedule.hosted(entries) - self.schedule.gone(entries)) * self.entry.nbytes

    @property
    def cost_key(self) -> object:
        """All layers with these heads cost the same."""
        return type(self), self.heads, self.block_size

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The tensors named above, zero, and the host's."""
        rows, deleted = size.max_seqs, self.schedule.deleted
        assert not self.heads.shared_kv, "latent attention has no real kernels"
        self._ring = self.entry.reserve((rows, self._turn), where)
        self._inputs = self.input.reserve((rows, deleted), where) if self.wants_inputs else {}
        shape = (size.num_blocks, size.block_size, self._columns)
        self.tensors = {
            **{f"ring_{name}": t for name, t in self._ring.items()},
            **{f"inputs_{name}": t for name, t in self._inputs.items()},
            "weights": reserve(shape, torch.float16, where),
        }
        self.host = self.entry.reserve((rows, size.num_blocks * size.block_size), _CPU)
        self.doomed = {}

    def put_entries(
        self, step: StepInput, k: torch.Tensor | None, v: torch.Tensor | None, x: torch.Tensor | None
    ) -> None:
        """Store the new entries k, v [T, K, D] that stay on the device, the inputs x [T, H] of the oldest
        tokens, and no attention weights for the new ones."""
        assert k is not None
        assert v is not None
        deleted = self.schedule.deleted
        new = self.entry.pack(joined_entries(k, v))
        for seq, (row, start, before, after) in enumerate(step.parts()):
            first = max(before, self.schedule.hosted(after))
            behind = slice(start + first - before, start + after - before)
            places = torch.arange(first, after, device=k.device) % self._turn
            put({n: t[row] for n, t in self._ring.items()}, places, {n: t[behind] for n, t in new.items()})
            if before < deleted:
                assert x is not None
                end = min(deleted, after)
                inputs = self.input.pack(x[start : start + end - before])
                put({n: t[row] for n, t in self._inputs.items()}, slice(before, end), inputs)
            self.tensors["weights"].flatten(0, 1).index_fill_(0, step.tables[seq][before:], 0.0)

    def offload(self, step: StepInput, k: torch.Tensor | None, v: torch.Tensor | None) -> None:
        """Put on the host what the step's entries k, v [T, K, D] push off the device, and those of them that
        find no room there."""
        assert k is not None
        assert v is not None
        schedule = self.schedule
        for row, start, before, after in step.parts():
            first, last = schedule.hosted(before), schedule.hosted(after)
            middle = min(last, max(first, before))  # up to there they lie on the device
            if first < middle:
                places = torch.arange(first, middle, device=k.device) % self._turn
                ring = {n: t[row] for n, t in self._ring.items()}
                self._put_host(row, first, take(ring, places, _CPU))
            if middle < last:
                new = slice(start + middle - before, start + last - before)
                self._put_host(row, middle, self.entry.pack(joined_entries(k[new], v[new])))

    def _put_host(self, row: int, first: int, new: Parts) -> None:
        """Entries `first` … of the sequence in `row`, as stored."""
        count = len(next(iter(new.values())))
        split = max(0, min(count, self.schedule.deleted - first))
        if split:
            doomed = self.doomed.setdefault(row, self.entry.reserve((self.schedule.deleted,), _CPU))
            put(doomed, slice(first, first + split), {n: t[:split] for n, t in new.items()})
        mine = {n: t[row] for n, t in self.host.items()}
        put(mine, slice(first + split, first + count), {n: t[split:] for n, t in new.items()})

    def delete(self, step: StepInput) -> None:
        """Free the host's memory of what phase III deletes, or of a sequence that is gone."""
        for row, _, before, _ in step.parts():
            if not before or self.schedule.gone(before):
                self.doomed.pop(row, None)

    # --- reading: entries by number, ascending

    def on_host(self, row: int, at: torch.Tensor, where: torch.device) -> Parts:
        """Entries `at` of the sequence in `row`, which lie on the host."""
        old = int((at < self.schedule.deleted).sum())
        pieces = []
        if old:
            pieces.append(take(self.doomed[row], at[:old], where))
        if old < len(at):
            pieces.append(take({n: t[row] for n, t in self.host.items()}, at[old:], where))
        return joined(pieces)

    def on_device(self, row: int, at: torch.Tensor) -> Parts:
        """Entries `at` of the sequence in `row`, which lie on the device."""
        return take({n: t[row] for n, t in self._ring.items()}, at % self._turn, at.device)

    def inputs_of(self, row: int, at: torch.Tensor) -> torch.Tensor:
        """The inputs of tokens `at` of the sequence in `row`, which are deleted: [n, H]."""
        return self.input.widen(take({n: t[row] for n, t in self._inputs.items()}, at, at.device))

    # --- attention weights

    def keep_weights(
        self, step: StepInput, seq: int, weights: torch.Tensor, pick: torch.Tensor | None = None
    ) -> None:
        """The attention [n, N] that the entries of a sequence get from its newest n queries: entries `pick`,
        and the others none, or all entries where it is None."""
        held, slots = self.tensors["weights"].flatten(0, 1), step.tables[seq]
        stored = weights.to(held.dtype)
        first = slots.shape[0] - stored.shape[0]
        if pick is None:
            columns = torch.arange(first, slots.shape[0], device=slots.device) % self._columns
            held[slots[:, None], columns] = stored.T
            return
        for query, given in enumerate(stored.unbind(), first):
            column = held.select(1, query % self._columns)
            column.index_fill_(0, slots, 0.0).index_copy_(0, slots.index_select(0, pick), given)

    def local_sum(self, step: StepInput, seq: int, steps: int, count: int) -> torch.Tensor:
        """The attention that the first `count` entries of a sequence were given by the `steps` queries before
        the step's own: float32 [count]."""
        slots = step.tables[seq][:count]
        held = self.tensors["weights"].flatten(0, 1).index_select(0, slots)
        if steps < self._columns:
            before = step.spans[seq].keys - step.spans[seq].queries
            columns = torch.arange(before - steps, before, device=slots.device) % self._columns
            held = held.index_select(1, columns)
        return held.sum(1, dtype=torch.float32)


def joined_entries(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Keys and values [T, K, D] as rows [T, W]."""
    return torch.cat((k.flatten(1), v.flatten(1)), 1)
