"""The block manager: tables, prefix caching, swapping, and a random workload recounted at every step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from twofold.engine.blocks import BlockManager
from twofold.engine.integrity import block_problems
from twofold.engine.request import Request, SamplingParams


def computed(blocks, ids, name=0, **options):
    """A request of `ids` that has been computed as far as it can be, with its prefix taken from the cache."""
    request = Request(name, ids, **options)
    blocks.attach(request, blocks.match_prefix(request))
    assert blocks.grow(request, len(ids))
    request.num_computed = request.num_slots = len(ids)
    blocks.register(request)
    return request


def test_sizes_are_validated():
    for arguments in [(0, 16), (1, 0)]:
        with pytest.raises(ValueError, match="at least 1"):
            BlockManager(*arguments)
    with pytest.raises(ValueError, match="num_host_blocks"):
        BlockManager(1, 1, num_host_blocks=-1)


def test_grow_takes_only_what_is_missing_and_all_or_nothing():
    blocks = BlockManager(4, 4)
    request = Request(0, 100)
    assert blocks.grow(request, 5)
    assert len(request.block_table) == 2
    assert blocks.grow(request, 8)
    assert len(request.block_table) == 2
    assert not blocks.grow(request, 17)
    assert len(request.block_table) == 2
    assert (blocks.num_free, blocks.num_used) == (2, 2)


def test_trim_frees_trailing_blocks():
    blocks = BlockManager(4, 4)
    request = Request(0, 100)
    blocks.grow(request, 16)
    first = request.block_table[0]
    blocks.trim(request, 3)
    assert request.block_table == [first]
    assert blocks.num_free == 3
    blocks.free(request)
    assert blocks.num_free == 4


def test_a_prefix_is_shared_block_by_block():
    blocks = BlockManager(8, 2)
    a = computed(blocks, [1, 2, 3, 4, 5])
    b = computed(blocks, [1, 2, 3, 4, 9], 1)
    assert b.block_table[:2] == a.block_table[:2]
    assert b.block_table[2] != a.block_table[2]
    assert blocks.num_used == 4
    assert (blocks.lookup_tokens, blocks.hit_tokens) == (10, 4)


def test_at_least_one_token_is_left_to_compute():
    blocks = BlockManager(8, 2)
    computed(blocks, [1, 2, 3, 4])
    assert len(blocks.match_prefix(Request(1, [1, 2, 3, 4]))) == 1
    assert len(blocks.match_prefix(Request(1, [1, 2, 3, 4, 5]))) == 2


def test_equal_blocks_behind_unequal_ones_are_not_shared():
    blocks = BlockManager(8, 2)
    computed(blocks, [1, 2, 7, 8, 0])
    computed(blocks, [3, 4, 5, 6, 0], 1)
    assert len(blocks.match_prefix(Request(2, [3, 4, 7, 8, 0]))) == 1
    assert blocks.match_prefix(Request(2, [7, 8, 0])) == []


def test_salts_and_private_requests_do_not_share():
    blocks = BlockManager(8, 2)
    computed(blocks, [1, 2, 3])
    assert blocks.match_prefix(Request(1, [1, 2, 3], salt="other")) == []
    assert blocks.match_prefix(Request(1, [1, 2, 3], share_prefix=False)) == []
    assert blocks.match_prefix(Request(1, 3)) == []
    assert len(blocks.match_prefix(Request(1, [1, 2, 3]))) == 1


def test_without_prefix_caching_nothing_is_kept():
    blocks = BlockManager(8, 2, prefix_caching=False)
    blocks.free(computed(blocks, [1, 2, 3]))
    assert blocks.num_cached == 0
    assert blocks.match_prefix(Request(1, [1, 2, 3])) == []


def test_freed_blocks_stay_findable_until_needed_ends_first():
    blocks = BlockManager(3, 2)
    a = computed(blocks, [1, 2, 3, 4, 5])
    blocks.free(a)
    assert (blocks.num_free, blocks.num_cached, blocks.num_used) == (3, 2, 0)
    # One free block, then the end of the cached sequence goes before its beginning.
    other = Request(1, 4)
    blocks.grow(other, 4)
    assert blocks.num_evicted == 1
    assert len(blocks.match_prefix(Request(2, [1, 2, 3, 4, 5]))) == 1


def test_least_recently_used_goes_first():
    blocks = BlockManager(2, 2)
    a, b = computed(blocks, [1, 2]), computed(blocks, [3, 4], 1)
    blocks.free(b)
    blocks.free(a)
    blocks.grow(Request(2, 1), 1)
    assert blocks.match_prefix(Request(3, [3, 4, 0])) == []
    assert len(blocks.match_prefix(Request(3, [1, 2, 0]))) == 1


def test_a_block_computed_twice_is_registered_once_and_its_chain_goes_on():
    blocks = BlockManager(8, 2)
    a, b = Request(0, [1, 2, 3, 4, 5]), Request(1, [1, 2, 3, 4, 5])
    for request in (a, b):
        blocks.grow(request, 5)
    a.num_computed = a.num_slots = 2
    blocks.register(a)
    b.num_computed = b.num_slots = 4
    blocks.register(b)
    found = blocks.match_prefix(Request(2, [1, 2, 3, 4, 5]))
    assert found == [a.block_table[0], b.block_table[1]]


def test_forget_cached_makes_nothing_findable():
    blocks = BlockManager(4, 2)
    held = computed(blocks, [1, 2, 3])
    blocks.free(computed(blocks, [5, 6, 7], 1))
    blocks.forget_cached()
    assert blocks.match_prefix(Request(2, [1, 2, 3])) == blocks.match_prefix(Request(2, [5, 6, 7])) == []
    blocks.free(held)
    assert blocks.num_free == 4
    assert not list(block_problems(blocks, []))


def test_swap_copies_out_and_back_and_reuses_what_is_still_there():
    blocks = BlockManager(4, 2, num_host_blocks=3)
    request = computed(blocks, [1, 2, 3, 4, 5])
    table = request.block_table.copy()
    assert blocks.can_swap_out(request)
    pairs = blocks.swap_out(request)
    assert [device for device, _ in pairs] == table
    assert (blocks.num_used, blocks.num_free_host) == (0, 0)
    # The two full blocks are still cached: only the last one is copied back.
    assert blocks.blocks_to_swap_in(request) == 3
    back = blocks.swap_in(request)
    assert [host for _, host in back] == [pairs[2][1]]
    assert request.block_table[:2] == table[:2]
    assert blocks.num_free_host == 3
    # Once they are overwritten, everything is.
    blocks.swap_out(request)
    intruder = Request(9, 8)
    blocks.grow(intruder, 8)
    blocks.free(intruder)
    assert len(blocks.swap_in(request)) == 3


def test_swap_needs_room_on_the_host():
    blocks = BlockManager(4, 2, num_host_blocks=2)
    request = computed(blocks, [1, 2, 3, 4, 5])
    assert not blocks.can_swap_out(request)


def test_withheld_memory_is_out_of_use_until_restored():
    blocks = BlockManager(4, 2)
    request = computed(blocks, [1, 2])
    blocks.free(request)
    assert blocks.withhold(9) == 4
    assert (blocks.num_free, blocks.num_withheld, blocks.num_cached) == (0, 4, 0)
    assert not blocks.grow(Request(1, 1), 1)
    blocks.restore()
    assert blocks.num_free == 4


class BlocksUnderLoad(RuleBasedStateMachine):
    """Random operations on a small pool with much to share; everything is recounted after each."""

    def __init__(self):
        super().__init__()
        self.blocks = BlockManager(10, 2, num_host_blocks=6)
        self.live = []
        self.swapped = []
        self.names = iter(range(1_000_000))

    @rule(ids=st.lists(st.integers(0, 1), min_size=1, max_size=9), salt=st.integers(0, 1))
    def admit(self, ids, salt):
        request = Request(next(self.names), ids, SamplingParams(max_tokens=99), salt=salt)
        prefix = self.blocks.match_prefix(request)
        blocks = self.blocks
        if blocks.blocks_for(len(ids)) - len(prefix) + blocks.num_idle(prefix) <= blocks.num_free:
            blocks.attach(request, prefix)
            assert blocks.grow(request, len(ids))
            request.num_computed = request.num_slots = len(ids)
            blocks.register(request)
            self.live.append(request)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=st.integers(0, 1), drafts=st.integers(0, 4))
    def decode(self, data, token, drafts):
        request = data.draw(st.sampled_from(self.live))
        if self.blocks.grow(request, request.num_slots + 1 + drafts):
            request.output_ids.append(token)
            request.num_output_tokens += 1
            request.num_tokens += 1
            request.num_computed += 1
            request.num_slots += 1
            self.blocks.trim(request, request.num_slots)
            if request.num_computed >= request._boundary:
                self.blocks.register(request)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data):
        request = data.draw(st.sampled_from(self.live))
        self.live.remove(request)
        self.blocks.free(request)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def swap_out(self, data):
        request = data.draw(st.sampled_from(self.live))
        if self.blocks.can_swap_out(request):
            self.blocks.swap_out(request)
            self.live.remove(request)
            self.swapped.append(request)

    @precondition(lambda self: self.swapped)
    @rule(data=st.data())
    def swap_in(self, data):
        request = data.draw(st.sampled_from(self.swapped))
        if self.blocks.blocks_to_swap_in(request) <= self.blocks.num_free:
            self.blocks.swap_in(request)
            self.swapped.remove(request)
            self.live.append(request)

    @rule(count=st.integers(0, 5))
    def withhold(self, count):
        self.blocks.withhold(count)

    @rule()
    def restore(self):
        self.blocks.restore()

    @invariant()
    def adds_up(self):
        assert not list(block_problems(self.blocks, [*self.live, *self.swapped]))


BlocksUnderLoad.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBlocksUnderLoad = BlocksUnderLoad.TestCase
