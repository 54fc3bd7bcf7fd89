"""KeptCopies: blocks in host memory whose requests have ended, found by what is in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from twofold.engine.block_key import Key


class Copy(NamedTuple):
    """Content in host memory: its identity, and the host block that holds it."""

    identity: int
    block: int


class KeptCopies:
    """Copies by the key of their content, least recently used first. Whoever begins as an ended request did
    can bring them back instead of computing them."""

    def __init__(self) -> None:
        self._copies: OrderedDict[Key, Copy] = OrderedDict()

    def __len__(self) -> int:
        return len(self._copies)

    def __contains__(self, key: Key) -> bool:
        return key in self._copies

    def __iter__(self) -> Iterator[int]:
        """Host blocks that are kept."""
        return (copy.block for copy in self._copies.values())

    def find(self, key: Key) -> Copy | None:
        """The copy of that content, now the one used last."""
        copy = self._copies.get(key)
        if copy is not None:
            self._copies.move_to_end(key)
        return copy

    def keep(self, key: Key, copy: Copy) -> None:
        """Keep one more."""
        assert key not in self._copies, key
        self._copies[key] = copy

    def take(self, key: Key) -> int:
        """Give up the copy of that content, which must be there; returns its host block."""
        return self._copies.pop(key).block

    def drop(self) -> int | None:
        """Give up the copy used longest ago; returns its host block, None where nothing is kept."""
        return self._copies.popitem(last=False)[1].block if self._copies else None

    def clear(self) -> list[int]:
        """Give up everything; returns the host blocks."""
        blocks = list(self)
        self._copies.clear()
        return blocks
