"""BlockManager: which cache blocks belong to whom. It hands out numbers; storage belongs to the cache layers.

A block holds `block_size` token slots of every layer. A request's block table lists its blocks in order. Full
blocks whose ids are known can be shared by later requests that begin with the same tokens (prefix caching):
the content of a block is identified by the identity of the block before it and its own tokens, compared
exactly, so that no hash collision can ever hand out somebody else's keys and values. Shared blocks are never
written again, which is why no copy-on-write is needed.

Every device block is in exactly one place: free, idle (unreferenced but cached, evicted least recently used
first), in one or more tables (of requests, or lent for as long as a cache is copied to or from another
instance), or withheld. Every host block is free or in one host table.
"""

from __future__ import annotations

from twofold.engine.request import Request
from twofold.engine.turn_blocks import TurnBlocks


class BlockManager(TurnBlocks):
    """Device blocks 0 … num_blocks - 1, and host blocks 0 … num_host_blocks - 1 to swap to.

    Counters: lookup_tokens and hit_tokens (tokens looked for and found by prefix matches), num_evicted
    (cached blocks overwritten), num_swapped_out and num_swapped_in (blocks copied), num_reused (blocks whose
    copy was still in host memory), num_returned (blocks that came back for another request than left them).
    """

    # Swapping

    def can_swap_out(self, request: Request) -> bool:
        """Whether the host pool has room for the request's used blocks; copies that are kept there make way:
        of ended requests first, then of others."""
        need = self.blocks_for(request.num_slots)
        missing = need - len(request.host_copy)
        while missing > len(self._free_host) and self._drop_kept():
            pass
        for other in list(self._copied.values()):
            if missing <= len(self._free_host):
                break
            if other is not request:
                self._drop_copies(other)
        return need > 0 and missing <= len(self._free_host)

    def swap_out(self, request: Request) -> list[tuple[int, int]]:
        """Move the request to host blocks. Returns the (device, host) pairs to copy before anything else is
        written, or, where copies are overlapped, before `settle`, which frees the device's blocks."""
        self.trim(request, request.num_slots)
        kept, request.host_copy = request.host_copy, []
        self._copied.pop(request.id, None)
        host = list(kept)
        if self.swapping.reuse:
            for key in self.keys_of(request)[len(host) :]:
                if key not in self._kept or len(host) == len(request.block_table):
                    break
                host.append(self._kept.take(key))
        there = len(host)
        self.num_reused += there
        while len(host) < len(request.block_table):
            host.append(self._take_host(host[-1] if host else -1))
        pairs = list(zip(request.block_table, host, strict=True))[there:]
        table = self.part_with(request, keep_chain=True)
        if self.swapping.overlapped and pairs:
            self._leaving.append(table)
        else:
            self.reclaim(table)
        request.host_table = host
        self.num_swapped_out += len(pairs)
        return pairs

    def _take_host(self, after: int) -> int:
        free = self._free_host
        return free.pop() if isinstance(free, list) else free.pop(after)

    @property
    def num_leaving(self) -> int:
        """Blocks that `settle` frees."""
        return sum(len(table) for table in self._leaving)

    def blocks_to_swap_in(self, request: Request) -> int:
        """Free blocks that `swap_in` would use up (idle ones that still hold its content included)."""
        resident = [self._block_of_identity.get(identity) for identity in request.chain]
        referenced = sum(block is not None and self._refs[block] > 0 for block in resident)
        return len(request.host_table) - referenced

    def swap_in(self, request: Request) -> list[tuple[int, int]]:
        """Move the request back; `blocks_to_swap_in` blocks must be free. Returns the (device, host) pairs to
        copy: blocks whose content is still cached on the device are shared instead."""
        host = request.host_table
        table: list[int] = []
        resident = [self._block_of_identity.get(identity) for identity in request.chain]
        resident += [None] * (len(host) - len(resident))
        for block in resident:
            if block is not None:
                self._share(block)
        pairs: list[tuple[int, int]] = []
        for block, source in zip(resident, host, strict=True):
            if block is None:
                block = self._take(table[-1] if table else -1)
                pairs.append((block, source))
            table.append(block)
        request.block_table = table
        full = request.num_slots // self.block_size if self.swapping.reuse else 0
        self._free_host.extend(reversed(host[full:]))
        if full:
            request.host_copy = host[:full]
            self._copied[request.id] = request
        request.host_table = []
        self.num_swapped_in += len(pairs)
        return pairs

    # Caches that come from another instance, or go there

    def lend(self, num_blocks: int) -> list[int] | None:
        """Blocks to be filled with a cache that comes from elsewhere; None, and nothing changed, where too
        few are free. They stay taken until `own` or `reclaim`."""
        if num_blocks > self.num_free:
            return None
        table = [self._take() for _ in range(num_blocks)]
        self._lent.append(table)
        return table

    def extend(self, table: list[int], num_blocks: int) -> bool:
        """Make a lent table `num_blocks` long. False, and nothing changed, where too few are free."""
        missing = num_blocks - len(table)
        if missing > self.num_free:
            return False
        table += [self._take() for _ in range(missing)]
        return True

    def part_with(self, request: Request, *, keep_chain: bool = False) -> list[int]:
        """Take the request's table from it; its blocks stay taken until `reclaim`, since they are still read.
        keep_chain: what it shared can be found when it comes back."""
        self.trim(request, request.num_slots)
        table, request.block_table = request.block_table, []
        if not keep_chain:
            request.chain.clear()
            request._boundary = 0
            self._drop_copies(request)
        self._lent.append(table)
        return table

    def own(self, request: Request, table: list[int]) -> None:
        """Make a lent table that of the request, whose cache it holds."""
        assert not request.block_table, request
        self._return(table)
        request.block_table = table
        request._boundary = 0

    # Memory that comes and goes

    def withhold(self, num_blocks: int) -> int:
        """Take up to `num_blocks` free blocks out of use (memory needed elsewhere). Returns how many it could
        take."""
        count = min(num_blocks, self.num_free)
        for _ in range(count):
            block = self._take()
            self._refs[block] = 0
            self._withheld.append(block)
        return count

    def restore(self) -> None:
        """Put all withheld blocks back into use."""
        self._free.extend(self._withheld)
        self._withheld.clear()
