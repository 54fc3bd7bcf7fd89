"""BlockGroups: free blocks that are handed out in runs, so that a request's cache is few contiguous pieces.

A request takes the block behind its last one where that is free. One that begins, or cannot go on, does so
where a whole group is free, a group behind whoever may want to grow there. Nothing is held back: where memory
is short every free block can be had, and runs get shorter. Source: the dynamic block groups of FastSwitch
(arXiv:2411.18424, section 3.1), which splits what a group has not used where others need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_FREE, _USED = 1, 0


class BlockGroups:
    """The free ones of `num_blocks` blocks, of which `group` are preferred in a row. Used like a list of free
    blocks."""

    def __init__(self, num_blocks: int, group: int) -> None:
        assert group > 0, group
        self.group = group
        self._map = bytearray([_FREE]) * num_blocks
        self._count = num_blocks

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return (block for block, state in enumerate(self._map) if state == _FREE)

    def extend(self, blocks: Iterable[int]) -> None:
        """`blocks` are free again."""
        for block in blocks:
            self.append(block)

    def append(self, block: int) -> None:
        """`block` is free again."""
        assert self._map[block] == _USED, f"block {block} is free already"
        self._map[block] = _FREE
        self._count += 1

    def pop(self, after: int = -1) -> int:
        """Take a free block, there must be one: the one behind block `after`, else the begin of a run."""
        block = after + 1
        if after < 0 or block == len(self._map) or self._map[block] == _USED:
            block = self._begin()
        self._map[block] = _USED
        self._count -= 1
        return block

    def _begin(self) -> int:
        """Where a run begins: behind a group that is left to the run before, else in the longest gap that is
        found by halving."""
        wanted = 2 * self.group
        while (at := self._map.find(bytes([_FREE]) * wanted)) < 0:
            wanted //= 2
        return at + self.group if wanted == 2 * self.group and at else at
