"""A model without weights whose every output depends on everything it reads through the block tables.

What it caches for a token is a hash of what the cache holds for the token before it and of the token itself
(as keys and values depend on the whole prefix); the next token is a hash of all cached values of the request.
A wrong block table, a stale prefix hit, a botched rollback, swap or eviction therefore changes the output,
and `expected_output` says so. Hashes are Python's of integers and tuples of integers, which do not vary
between processes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set

from twofold.engine.batch import Batch, Scheduled
from twofold.engine.blocks import BlockManager

VOCAB_SIZE = 1 << 16


def _start(salt: Hashable) -> int:
    # None's own hash is an address.
    return hash((17, -1 if salt is None else salt))


def _next_token(values: Sequence[int]) -> int:
    return hash(tuple(values)) % VOCAB_SIZE


def expected_output(
    context: Sequence[int],
    max_tokens: int,
    min_tokens: int = 0,
    stop_ids: Set[int] = frozenset(),
    salt: Hashable = None,
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
        token = _next_token(values)
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

    def __init__(self, blocks: BlockManager) -> None:
        self._size = blocks.block_size
        self._device = [[-1] * blocks.block_size for _ in range(blocks.num_blocks)]
        self._host = [[-1] * blocks.block_size for _ in range(blocks.num_host_blocks)]

    def copy_blocks(self, batch: Batch) -> None:
        """Do the copies of a step: all that go out, then all that come in."""
        for block, host in batch.swap_out:
            self._host[host] = self._device[block].copy()
        for block, host in batch.swap_in:
            self._device[block] = self._host[host].copy()

    def execute(self, entry: Scheduled) -> list[int]:
        """Compute one entry: write its tokens' values, and where it samples return the accepted drafts and
        one token."""
        request = entry.request
        size, device = self._size, self._device
        table = request.block_table
        start = _start(request.salt)
        values: list[int] = []
        for block in table[: -(-entry.slot // size)]:
            values += device[block]
        del values[entry.slot :]
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
                predicted = _next_token(values)
                yielded.append(predicted)
                accepting = index + 1 < len(tokens) and predicted == tokens[index + 1]
        return yielded

    def pooled(self, entry: Scheduled) -> int:
        """The sum of what stands for the last hidden states of an entry's tokens; to be called once it is
        executed."""
        size, table = self._size, entry.request.block_table
        slots = range(entry.slot, entry.slot + entry.num_tokens)
        return sum(self._device[table[slot // size]][slot % size] % VOCAB_SIZE for slot in slots)
