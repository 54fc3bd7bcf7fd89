"""Rows for the low bits of important entries, which all layers of a model share.

Every layer takes as many as its own attention asks for; once none is left, an entry keeps its high bits
alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from twofold.models.cache_memory import reserve


class Pool:
    """Rows of bytes that are given out one by one. rows: uint8 [rows, bytes] once allocated; refused: how
    often none was left."""

    def __init__(self) -> None:
        self.rows = torch.zeros(0, 0, dtype=torch.uint8)
        self.refused = 0
        self._free: list[int] = []

    def allocate(self, rows: int, width: int, where: torch.device) -> None:
        """`rows` rows of `width` bytes, all free."""
        self.rows = reserve((rows, width), torch.uint8, where)
        self._free = list(range(rows - 1, -1, -1))

    def take(self, count: int) -> list[int]:
        """At most `count` free rows."""
        given = min(count, len(self._free))
        self.refused += count - given
        taken = self._free[len(self._free) - given :]
        del self._free[len(self._free) - given :]
        return taken

    def give_back(self, rows: Iterable[int]) -> None:
        """Those rows are free again."""
        self._free.extend(rows)
