"""BlockPool: device blocks in tables, prefixes that requests share, and what is free: the base of the
BlockManager, which says more (see `engine.blocks`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from twofold.engine.block_groups import BlockGroups
from twofold.engine.block_key import Key
from twofold.engine.request import NEVER, Request
from twofold.engine.swapping import PLAIN_SWAPPING, Swapping


class BlockPool:
    """Device blocks 0 … num_blocks - 1, and host blocks 0 … num_host_blocks - 1 to swap to.

    Counters: lookup_tokens and hit_tokens (tokens looked for and found by prefix matches), num_evicted
    (cached blocks overwritten), num_swapped_out and num_swapped_in (blocks copied), num_reused (blocks whose
    copy was still in host memory).
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        num_host_blocks: int = 0,
        prefix_caching: bool = True,
        swapping: Swapping = PLAIN_SWAPPING,
    ) -> None:
        for name, value, least in (
            ("num_blocks", num_blocks, 1),
            ("block_size", block_size, 1),
            ("num_host_blocks", num_host_blocks, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_host_blocks = num_host_blocks
        self.prefix_caching = prefix_caching
        # Popped from the end: low numbers first, recently freed ones again first.
        self._free = self._all(num_blocks, swapping)
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._withheld: list[int] = []
        self._lent: list[list[int]] = []
        self._refs = [0] * num_blocks
        self._free_host = self._all(num_host_blocks, swapping)
        self.swapping = swapping
        # Requests on the device with copies of blocks in host memory; tables that are being copied out.
        self._copied: dict[str | int, Request] = {}
        self._leaving: list[list[int]] = []
        # Cached content. An identity is a number that is never given twice, so that a stale one can only
        # miss.
        self._block_of_key: dict[Key, int] = {}
        self._block_of_identity: dict[int, int] = {}
        self._content: dict[int, tuple[Key, int]] = {}
        self._next_identity = 0
        self.lookup_tokens = 0
        self.hit_tokens = 0
        self.num_evicted = 0
        self.num_swapped_out = 0
        self.num_swapped_in = 0
        self.num_reused = 0

    @staticmethod
    def _all(num_blocks: int, swapping: Swapping) -> list[int] | BlockGroups:
        if swapping.group:
            return BlockGroups(num_blocks, swapping.group)
        return list(range(num_blocks - 1, -1, -1))

    # What there is

    @property
    def num_slots(self) -> int:
        """Token slots in the device's memory."""
        return self.num_blocks * self.block_size

    @property
    def num_free(self) -> int:
        """Blocks that can be handed out now, cached but unreferenced ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_cached(self) -> int:
        """Blocks whose content can be found by a prefix match, referenced or not."""
        return len(self._content)

    @property
    def num_idle_cached(self) -> int:
        """Blocks that nobody holds and whose content can still be found."""
        return len(self._idle)

    @property
    def num_withheld(self) -> int:
        """Blocks taken out of use by `withhold`."""
        return len(self._withheld)

    @property
    def num_used(self) -> int:
        """Blocks in some request's table."""
        return self.num_blocks - self.num_free - len(self._withheld)

    @property
    def num_free_host(self) -> int:
        """Host blocks that can be handed out."""
        return len(self._free_host)

    def is_free(self, block: int) -> bool:
        """Whether nobody holds the block and nothing in it can be found."""
        return not self._refs[block] and block not in self._content

    def blocks_for(self, num_slots: int) -> int:
        """Blocks that hold `num_slots` slots."""
        return -(-num_slots // self.block_size)

    # A request's table

    def grow(self, request: Request, num_slots: int) -> bool:
        """Extend the table to hold `num_slots` slots. False, and nothing changed, where too few blocks are
        free."""
        table = request.block_table
        missing = -(-num_slots // self.block_size) - len(table)
        if missing <= 0:
            return True
        if missing > len(self._free) + len(self._idle):
            return False
        for _ in range(missing):
            table.append(self._take(table[-1] if table else -1))
        return True

    def trim(self, request: Request, num_slots: int) -> None:
        """Free the blocks behind the first `num_slots` slots (rejected drafts, evicted tokens)."""
        keep = self.blocks_for(num_slots)
        table = request.block_table
        assert keep >= len(request.chain), f"{request!r} would lose shared blocks"
        while len(table) > keep:
            self._release(table.pop())

    def free(self, request: Request) -> None:
        """Give back everything the request holds. Cached content stays findable until its blocks are needed:
        the end of a sequence is overwritten before its beginning, which more requests may share."""
        table = request.block_table
        if request.chain:
            while table:
                self._release(table.pop())
        else:  # nobody shares its blocks, and none of them can be found
            refs = self._refs
            for block in table:
                refs[block] = 0
            table.reverse()
            self._free.extend(table)
            table.clear()
        if request.host_table:
            self._free_host.extend(reversed(request.host_table))
            request.host_table.clear()
        self._drop_copies(request)
        request.chain.clear()
        request._boundary = 0

    def _take(self, after: int = -1) -> int:
        if self._free:
            block = self._free.pop() if isinstance(self._free, list) else self._free.pop(after)
        else:
            block, _ = self._idle.popitem(last=False)
            key, identity = self._content.pop(block)
            del self._block_of_key[key]
            del self._block_of_identity[identity]
            self.num_evicted += 1
        self._refs[block] = 1
        return block

    def _release(self, block: int) -> None:
        refs = self._refs
        refs[block] -= 1
        if not refs[block]:
            if block in self._content:
                self._idle[block] = None
            else:
                self._free.append(block)

    def _share(self, block: int) -> None:
        if not self._refs[block]:
            del self._idle[block]
        self._refs[block] += 1

    # Prefix caching

    def match_prefix(self, request: Request) -> list[int]:
        """Cached blocks that hold the beginning of the request, never all of it: at least one token is left
        to compute, for its logits. Changes nothing."""
        blocks: list[int] = []
        if not (self.prefix_caching and request.share_prefix and self._content):
            return blocks
        size = self.block_size
        last = min(request.num_tokens - 1, request.num_known_tokens)
        parent: Hashable = (request.salt,)
        for start in range(0, last - size + 1, size):
            block = self._block_of_key.get((parent, tuple(request.tokens(start, start + size))))
            if block is None:
                break
            blocks.append(block)
            parent = self._content[block][1]
        return blocks

    def num_idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` are unreferenced, and so count as free until somebody shares them."""
        refs = self._refs
        return sum(not refs[block] for block in blocks)

    def attach(self, request: Request, blocks: list[int]) -> None:
        """Begin the request's table with `blocks`, as `match_prefix` returned them."""
        in_use = request.block_table or request.chain or request.host_table
        assert not in_use, request
        for block in blocks:
            self._share(block)
            request.chain.append(self._content[block][1])
        request.block_table += blocks
        request.num_computed = request.num_slots = len(blocks) * self.block_size
        if self.prefix_caching and request.share_prefix:
            self.lookup_tokens += request.num_tokens
            self.hit_tokens += request.num_computed

    def register(self, request: Request) -> None:
        """Make the request's full, computed blocks findable. To be called when `num_computed` reaches
        `_boundary`."""
        size = self.block_size
        shareable = self.prefix_caching and request.share_prefix and request.num_slots == request.num_computed
        if not shareable:
            request._boundary = NEVER
            return
        chain = request.chain
        known = request.num_known_tokens
        end = min(request.num_computed, known)
        for start in range(len(chain) * size, end - size + 1, size):
            parent: Hashable = chain[-1] if chain else (request.salt,)
            key = (parent, tuple(request.tokens(start, start + size)))
            block = self._block_of_key.get(key)
            if block is None:
                block = request.block_table[len(chain)]
                assert block not in self._content, f"block {block} of {request!r} is registered"
                assert self._refs[block] == 1, f"block {block} of {request!r} is shared"
                self._next_identity += 1
                self._content[block] = (key, self._next_identity)
                self._block_of_key[key] = block
                self._block_of_identity[self._next_identity] = block
            # Where somebody else was first, this copy stays private, but the chain goes on from the shared
            # identity.
            chain.append(self._content[block][1])
        request._boundary = (len(chain) + 1) * size if known == request.num_tokens else NEVER

    def forget_cached(self) -> None:
        """Make no cached content findable any more (after the weights or the cache format changed)."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._content.clear()
        self._block_of_key.clear()
        self._block_of_identity.clear()

    def _drop_copies(self, request: Request) -> None:
        if request.host_copy:
            self._free_host.extend(reversed(request.host_copy))
            request.host_copy = []
            del self._copied[request.id]
