"""Where ALISA stores what it knows of a sequence: its newest tokens on the device, older ones on the host,
the inputs of the oldest, from which these are computed again once they are deleted, and the newest attention
weights.

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
    """Tensors: ring_… [max_seqs, p1, …], which the newest entries take in turn (as many more as there may be
    drafts, so that what drafts push out comes back with them); inputs_… [max_seqs, deleted, …], of the oldest
    tokens; weights fp16 [B, b, steps]: the attention that an entry was given by the query at each of the last
    `local_steps` positions, summed over heads, which take the columns in turn. Host memory: entries by number
    [max_seqs, L, …], which takes pages as it is written, and those that phase III deletes, by themselves.

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
                f"technique alisa keeps its own share of the cache on the host; leave the cache on the "
                f"device instead of in {where!r} memory (cache_device=1)"
            )

    # --- bytes

    @property
    def input(self) -> RowFormat:
        """How the inputs of a token are stored."""
        assert self.projection is not None, "a cache that wants inputs belongs to an attention sublayer"
        return self._format(self.projection.spec.hidden)

    @property
    def _turn(self) -> int:
        """Places that the newest entries take in turn."""
        return self.schedule.p1 + self.max_drafts

    @property
    def _columns(self) -> int:
        """Columns that the newest attention weights take in turn."""
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

    def parts_of(self, step: StepInput) -> list[tuple[int, int, int, int]]:
        """(row, first new token, entries before, entries after) of each sequence."""
        parts, start = [], 0
        for row, (queries, keys) in zip(step.rows, step.spans, strict=True):
            parts.append((row, start, keys - queries, keys))
            start += queries
        return parts

    def put_entries(
        self, step: StepInput, k: torch.Tensor | None, v: torch.Tensor | None, x: torch.Tensor | None
    ) -> None:
        """Store the new entries k, v [T, K, D] that stay on the device, the inputs x [T, H] of the oldest
        tokens, and no attention weights for the new ones."""
        assert k is not None
        assert v is not None
        deleted = self.schedule.deleted
        new = self.entry.pack(_entries(k, v))
        for seq, (row, start, before, after) in enumerate(self.parts_of(step)):
            first = max(before, self.schedule.hosted(after))
            behind = slice(start + first - before, start + after - before)
            places = torch.arange(first, after, device=k.device) % self._turn
            put({n: t[row] for n, t in self._ring.items()}, places, {n: t[behind] for n, t in new.items()})
            if before < deleted:
                assert x is not None
                end = min(deleted, after)
                inputs = self.input.pack(x[start : start + end - before])
                put({n: t[row] for n, t in self._inputs.items()}, slice(before, end), inputs)
            self.tensors["weights"].flatten(0, 1)[step.tables[seq][before:]] = 0.0

    def offload(self, step: StepInput, k: torch.Tensor | None, v: torch.Tensor | None) -> None:
        """Put on the host what the step's entries k, v [T, K, D] push off the device, or find no room
        there."""
        assert k is not None
        assert v is not None
        schedule = self.schedule
        for row, start, before, after in self.parts_of(step):
            first, last = schedule.hosted(before), schedule.hosted(after)
            middle = min(last, max(first, before))  # up to there they lie on the device
            if first < middle:
                places = torch.arange(first, middle, device=k.device) % self._turn
                ring = {n: t[row] for n, t in self._ring.items()}
                self._put_host(row, first, take(ring, places, _CPU))
            if middle < last:
                new = slice(start + middle - before, start + last - before)
                self._put_host(row, middle, self.entry.pack(_entries(k[new], v[new])))

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
        for row, _, before, _ in self.parts_of(step):
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

    def keep_weights(self, step: StepInput, seq: int, weights: torch.Tensor) -> None:
        """The attention [n, N] that the entries of a sequence get from the newest n queries."""
        entries = weights.shape[1]
        columns = torch.arange(entries - len(weights), entries, device=weights.device) % self._columns
        held = self.tensors["weights"].flatten(0, 1)
        held[step.tables[seq][:, None], columns] = weights.T.to(held.dtype)

    def local_sum(self, step: StepInput, seq: int, steps: int, count: int) -> torch.Tensor:
        """The attention that the first `count` entries of a sequence were given by the `steps` queries before
        the step's own: float32 [count]."""
        slots = step.tables[seq][:count]
        before = step.spans[seq].keys - step.spans[seq].queries
        columns = torch.arange(before - steps, before, device=slots.device) % self._columns
        held = self.tensors["weights"].flatten(0, 1)
        return held.index_select(0, slots).index_select(1, columns).float().sum(1)


def _entries(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Keys and values [T, K, D] as rows [T, W]."""
    return torch.cat((k.flatten(1), v.flatten(1)), 1)
