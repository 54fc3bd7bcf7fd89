"""A model without weights whose every output depends on everything it reads through the block tables.

What it caches for a token is a hash of what the cache holds for the token before it and of the token itself
(as keys and values depend on the whole prefix); the next token is a hash of all cached values of the request.
A wrong block table, a stale prefix hit, a botched rollback, swap or compaction therefore changes the output,
and `expected_output` says so. Hashes are Python's of integers and tuples of integers, which do not vary
between processes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set
from typing import TYPE_CHECKING

from twofold.engine.batch import Batch, Scheduled
from twofold.engine.blocks import BlockManager
from twofold.engine.retention import counters
from twofold.ops.compaction import Observed

if TYPE_CHECKING:
    from twofold.models.retaining import Retainer

VOCAB_SIZE = 1 << 16


def _start(salt: Hashable) -> int:
    # None's own hash is an address.
    return hash((17, -1 if salt is None else salt))


class SimulatedRetention:
    """Keeps the first `first` entries and the last `last` once there are `every` more. The model looks at no
    others, so that outputs do not depend on when entries go."""

    def __init__(self, first: int, last: int, every: int) -> None:
        self.first, self.last, self.every = first, last, every
        self.counters = counters()

    def kept(self, slots: int, computed: int, context: int) -> int:
        """What the model looks at, where there are `every` entries too many."""
        del computed, context
        size = self.first + self.last
        return size if slots >= size + self.every else slots

    def most(self, tokens: int, context: int) -> int:
        """Nearly `every` more."""
        del context
        return min(tokens, self.first + self.last + self.every - 1)

    def observed(self, start: int, queries: int, context: int) -> Observed | None:
        """None."""
        del start, queries, context
        return None

    def retainer(self, layer: int) -> Retainer:
        """There are no layers."""
        raise AssertionError(f"a simulated model has no layer {layer}")

    def seen(self, values: Sequence[int]) -> Sequence[int]:
        """Those of the values that the model looks at."""
        if len(values) <= self.first + self.last:
            return values
        return [*values[: self.first], *values[len(values) - self.last :]]


def _next_token(values: Sequence[int], retention: SimulatedRetention | None) -> int:
    return hash(tuple(values if retention is None else retention.seen(values))) % VOCAB_SIZE


def expected_output(
    context: Sequence[int],
    max_tokens: int,
    min_tokens: int = 0,
    stop_ids: Set[int] = frozenset(),
    salt: Hashable = None,
    retention: SimulatedRetention | None = None,
) -> list[int]:
    """Output for `context` run alone, without a cache: up to a stop token (included) or `max_tokens`. Salts
    are whole numbers or None."""
    values: list[int] = []
    value = _start(salt)
    for token in context:
        value = hash((value, token))
        values.append(value)
    output: list[int] = []
    while True:
        token = _next_token(values, retention)
        output.append(token)
        if len(output) == max_tokens or (token in stop_ids and len(output) >= min_tokens):
            return output
        value = hash((value, token))
        values.append(value)


def expected_embedding(context: Sequence[int], salt: Hashable = None) -> float:
    """The mean over `context` of what stands for last hidden states."""
    value, total = _start(salt), 0
    for token in context:
        value = hash((value, token))
        total += value % VOCAB_SIZE
    return total / len(context)


class SimulatedModel:
    """Executes batches on simulated device and host memory: one integer per token slot."""

    def __init__(self, blocks: BlockManager, retention: SimulatedRetention | None = None) -> None:
        self._retention = retention
        self._size = blocks.block_size
        self._device = [[-1] * blocks.block_size for _ in range(blocks.num_blocks)]
        self._host = [[-1] * blocks.block_size for _ in range(blocks.num_host_blocks)]

    def copy_blocks(self, batch: Batch) -> None:
        """Do the compactions of a step, then its copies: all that go out, then all that come in."""
        for table, entries, kept, *_ in batch.compactions:
            assert self._retention is not None
            values = self._values(table, entries)
            first = self._retention.first
            for slot, value in enumerate([*values[:first], *values[entries - kept + first :]]):
                self._device[table[slot // self._size]][slot % self._size] = value
        for block, host in batch.swap_out:
            self._host[host] = self._device[block].copy()
        for block, host in batch.swap_in:
            self._device[block] = self._host[host].copy()

    def read(self, block: int) -> list[int]:
        """What is in a device block."""
        return self._device[block].copy()

    def write(self, block: int, values: list[int]) -> None:
        """Fill a device block with what another model's holds."""
        self._device[block] = values

    def execute(self, entry: Scheduled) -> list[int]:
        """Compute one entry: write its tokens' values, and where it samples return the accepted drafts and
        one token."""
        request = entry.request
        size, device = self._size, self._device
        table = request.block_table
        start = _start(request.salt)
        values = self._values(table, entry.slot)
        tokens = entry.tokens()
        drafts = entry.num_drafts
        yielded: list[int] = []
        accepting = True
        for index, token in enumerate(tokens):
            slot = len(values)
            value = hash((values[-1] if slot else start, token))
            device[table[slot // size]][slot % size] = value
            values.append(value)
            if accepting and entry.samples and index >= len(tokens) - 1 - drafts:
                predicted = _next_token(values, self._retention)
                yielded.append(predicted)
                accepting = index + 1 < len(tokens) and predicted == tokens[index + 1]
        return yielded

    def _values(self, table: Sequence[int], count: int) -> list[int]:
        """What the first `count` slots of a block table hold."""
        values: list[int] = []
        for block in table[: -(-count // self._size)]:
            values += self._device[block]
        return values[:count]

    def pooled(self, entry: Scheduled) -> int:
        """The sum of what stands for the last hidden states of an entry's tokens; to be called once it is
        executed."""
        size, table = self._size, entry.request.block_table
        slots = range(entry.slot, entry.slot + entry.num_tokens)
        return sum(self._device[table[slot // size]][slot % size] % VOCAB_SIZE for slot in slots)
