"""TurnBlocks: what outlives the requests that computed it, in host memory: the next turn of a conversation
begins with what the last one ended with. Part of the BlockManager (see `engine.blocks`).

Where copies are reused, a request that ends leaves its shareable blocks in host memory: those that are there
already, the others copied out before the next step (beside it, where copies are overlapped). A request that
begins alike finds them behind what is still cached on the device.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from twofold.engine.block_key import Key
from twofold.engine.block_pool import BlockPool
from twofold.engine.kept_copies import Copy, KeptCopies
from twofold.engine.request import Request


class TurnBlocks(BlockPool):
    """Counter: num_returned (blocks that came back for another request than left them)."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._kept = KeptCopies()
        # The (device, host) pairs to be copied for requests that have ended; their device blocks, taken until
        # then where copies are overlapped.
        self._parting: list[tuple[int, int]] = []
        self._parting_table: list[int] = []
        # What is on its way to the device beside a step, and can be shared once it has arrived.
        self._arriving: list[tuple[Request, int, Key, int]] = []
        self.num_returned = 0

    @property
    def num_kept(self) -> int:
        """Host blocks that hold what ended requests have left."""
        return len(self._kept)

    def free(self, request: Request) -> None:
        """As of the pool; what can be shared lives on in host memory where copies are reused."""
        if self.swapping.reuse and request.chain:
            self._keep(request)
        super().free(request)

    def forget_cached(self) -> None:
        """As of the pool, in host memory too."""
        self._free_host.extend(self._kept.clear())
        self._parting.clear()
        self._arriving.clear()
        super().forget_cached()

    def parting(self) -> list[tuple[int, int]]:
        """The (device, host) pairs to copy in this step for requests that have ended. Where copies are
        overlapped, `settle` frees the device's blocks."""
        pairs, self._parting = self._parting, []
        self.num_swapped_out += len(pairs)
        if self._parting_table:
            self._leaving.append(self._parting_table)
            self._parting_table = []
        return pairs

    def match_kept(self, request: Request, prefix: list[int]) -> list[Key]:
        """Content behind `prefix` (as `match_prefix` found it) that ended requests have left in host memory;
        never all of the request. Changes nothing but when it was used."""
        found: list[Key] = []
        if not (len(self._kept) and self.prefix_caching and request.share_prefix):
            return found
        size = self.block_size
        parent: Hashable = self._content[prefix[-1]][1] if prefix else (request.salt,)
        last = min(request.num_tokens - 1, request.num_known_tokens)
        for start in range(len(prefix) * size, last - size + 1, size):
            key = (parent, tuple(request.tokens(start, start + size)))
            copy = self._kept.find(key)
            if copy is None or key in self._block_of_key:
                break
            found.append(key)
            parent = copy.identity
        return found

    def bring(self, request: Request, keys: list[Key]) -> list[tuple[int, int]]:
        """Append the content of `keys`, as `match_kept` returned them, to the request's table; as many blocks
        must be free. Returns the (device, host) pairs to copy. The copies stay in host memory."""
        pairs = []
        for key in keys:
            copy = self._kept.find(key)
            assert copy is not None, key
            table = request.block_table
            block = self._take(table[-1] if table else -1)
            self._arriving.append((request, block, key, copy.identity))
            table.append(block)
            request.chain.append(copy.identity)
            pairs.append((block, copy.block))
        brought = len(keys) * self.block_size
        request.num_computed += brought
        request.num_slots += brought
        self.hit_tokens += brought
        self.num_swapped_in += len(pairs)
        self.num_returned += len(pairs)
        if not self.swapping.overlapped:
            self._arrive()
        return pairs

    def _arrive(self) -> None:
        """Make what has come from host memory findable, unless it was given up or computed meanwhile."""
        for request, block, key, identity in self._arriving:
            if block in request.block_table and key not in self._block_of_key:
                self._content[block] = (key, identity)
                self._block_of_key[key] = block
                self._block_of_identity[identity] = block
        self._arriving.clear()

    def settle(self) -> None:
        """Everything that was to be copied has been."""
        self._arrive()
        while self._leaving:
            self.reclaim(self._leaving.pop())

    def reclaim(self, table: list[int]) -> None:
        """Free the blocks of a lent table."""
        self._return(table)
        for block in reversed(table):
            self._release(block)

    def _return(self, table: list[int]) -> None:
        self._lent = [other for other in self._lent if other is not table]

    def keys_of(self, request: Request) -> list[Key]:
        """The keys of the blocks in the request's chain."""
        parents: list[Hashable] = [(request.salt,), *request.chain[:-1]]
        size = self.block_size
        return [
            (parent, tuple(request.tokens(i * size, (i + 1) * size)))
            for i, parent in enumerate(parents[: len(request.chain)])
        ]

    def _keep(self, request: Request) -> None:
        """Let the shareable blocks of a request that ends live on in host memory: those that are there
        already, and of the others as many as there is room for, which are copied before the next step writes
        anything, or beside it."""
        keys, there = self.keys_of(request), request.host_table or request.host_copy
        known = [self._kept.find(key) is not None for key in keys]
        room = len(self._free_host) + len(self._kept) - sum(known)
        for i, key in enumerate(keys):
            if known[i]:
                continue
            if i < len(there):
                self._kept.keep(key, Copy(request.chain[i], there[i]))
                continue
            if i < len(request.block_table) and room > 0 and (host := self._host_block()) is not None:
                room -= 1
                self._kept.keep(key, Copy(request.chain[i], host))
                self._part(request.block_table[i], host)
        for key in reversed(keys):  # a beginning is of more use than what follows it
            self._kept.find(key)
        spare = [block for i, block in enumerate(there) if i >= len(keys) or known[i]]
        self._free_host.extend(reversed(spare))
        request.host_table = []
        if request.host_copy:
            request.host_copy = []
            del self._copied[request.id]

    def _part(self, block: int, host: int) -> None:
        self._parting.append((block, host))
        if self.swapping.overlapped:
            if not self._parting_table:
                self._lent.append(self._parting_table)
            self._refs[block] += 1
            self._parting_table.append(block)

    def _host_block(self) -> int | None:
        """A free host block, if need be that of a copy that was not used for long."""
        if not self._free_host and not self._drop_kept():
            return None
        free = self._free_host
        return free.pop() if isinstance(free, list) else free.pop(-1)

    def _drop_kept(self) -> bool:
        """Free the host block of the copy that was used longest ago. False where there is none to spare."""
        block = self._kept.drop()
        if block is None:
            return False
        self._parting = [pair for pair in self._parting if pair[1] != block]
        self._free_host.append(block)
        return True
