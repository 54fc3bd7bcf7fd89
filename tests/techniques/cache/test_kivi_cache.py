"""A KIVI cache holds and shows what the method says, whatever the steps are, and counts its bytes exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.techniques.cache.harness import (
    BLOCK,
    DIM,
    GROUP,
    KV_HEADS,
    MAX_SEQS,
    NUM_BLOCKS,
    RESIDUAL,
    Part,
    entries,
    expected,
    feed,
    make_cache,
    make_dense,
    make_heads,
    make_step,
)

from twofold.devices.torch_device import TorchDevice
from twofold.kernels.reference.attention import attend_sequence
from twofold.models.cache import CacheLayer, CacheSize
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.cache.kivi import KiviScheme
from twofold.techniques.cache.kivi_cache import KiviCache

LENGTH = 110


def attend(
    cache: CacheLayer, step: StepInput, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    out = cache.attend(TorchDevice("cpu"), step, q, k, v)
    assert out is not None
    return out


def held(cache: KiviCache, row: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All `count` entries of a row as the next step would see them (it adds one entry of zeros)."""
    zeros = torch.zeros(1, KV_HEADS, DIM)
    blocks = range(-(-(count + 1) // BLOCK))
    k, v = cache.read(make_step([Part(row, blocks, count, count + 1)]), 0, zeros, zeros)
    return k[:count], v[:count]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dim", [16, 4 * GROUP])
def test_steps_see_what_the_method_says(bits: int, dim: int) -> None:
    k, v = entries(LENGTH, dim=dim)
    cuts = [50, 51, 52, 70, 71, 72, 73, 96, 97, LENGTH]
    seen = feed(make_cache(bits, dim=dim), k, v, cuts)
    for before, end, (shown_k, shown_v) in zip([0, *cuts], cuts, seen, strict=False):
        right_k, right_v = expected(k[:end], v[:end], before, bits)
        assert torch.allclose(shown_k, right_k, rtol=1e-5, atol=1e-6), (before, end)
        assert torch.allclose(shown_v, right_v, rtol=1e-5, atol=1e-6), (before, end)


def test_a_head_narrower_than_a_group_is_one_group_of_values() -> None:
    k, v = entries(LENGTH, dim=8)
    cache = make_cache(group=16, residual=32, dim=8)
    shown_k, shown_v = feed(cache, k, v, [100, LENGTH])[1]
    right_k, right_v = expected(k, v, 100, 2, group=16, residual=32)
    assert torch.allclose(shown_k, right_k, rtol=1e-5, atol=1e-6)
    assert torch.allclose(shown_v, right_v, rtol=1e-5, atol=1e-6)
    assert cache.tensors["v_scale"].shape == (NUM_BLOCKS, BLOCK, KV_HEADS, 1)


@pytest.mark.parametrize(
    "cuts", [[LENGTH], list(range(1, LENGTH + 1)), [5, 30, 31, 90, LENGTH], [48, 72, LENGTH]]
)
def test_what_is_held_does_not_depend_on_the_steps(cuts: list[int]) -> None:
    k, v = entries(LENGTH)
    cache = make_cache()
    feed(cache, k, v, cuts)
    shown, right = held(cache, 0, LENGTH), expected(k, v, LENGTH, 2)
    for a, b in zip(shown, right, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_short_sequence_attends_as_with_the_dense_cache() -> None:
    k, v = entries(RESIDUAL + 1)
    q = torch.randn(RESIDUAL + 1, 4, DIM, generator=torch.Generator().manual_seed(5))
    kivi, dense = make_cache(), make_dense()
    for start, end in itertools.pairwise([0, 10, *range(11, RESIDUAL + 1)]):
        step = make_step([Part(0, range(3), start, end)])
        new = q[start:end], k[start:end], v[start:end]
        assert torch.equal(attend(kivi, step, *new), attend(dense, step, *new)), end
    assert kivi.layout.counters["packed_tokens_read"] == 0
    # The full window of keys has now been packed, so that the next token sees a difference.
    step = make_step([Part(0, range(3), RESIDUAL, RESIDUAL + 1)])
    new = q[RESIDUAL:], k[RESIDUAL:], v[RESIDUAL:]
    assert not torch.equal(attend(kivi, step, *new), attend(dense, step, *new))


def test_a_prompt_in_one_chunk_attends_as_with_the_dense_cache() -> None:
    k, v = entries(LENGTH)
    q = torch.randn(LENGTH, 4, DIM, generator=torch.Generator().manual_seed(5))
    step = make_step([Part(0, range(7), 0, LENGTH)])
    assert torch.equal(attend(make_cache(), step, q, k, v), attend(make_dense(), step, q, k, v))


def test_no_copy_in_full_precision_outlives_attention() -> None:
    k, v = entries(LENGTH)
    q = torch.randn(LENGTH, 4, DIM)
    cache = make_cache()
    attend(cache, make_step([Part(0, range(7), 0, LENGTH)]), q, k, v)
    size = CacheSize(NUM_BLOCKS, BLOCK, MAX_SEQS)
    assert cache.allocated == size.num_blocks * cache.block_bytes() + MAX_SEQS * cache.sequence_bytes()
    held = [x for x in vars(cache).values() if isinstance(x, torch.Tensor)]
    assert [x.shape for x in held] == [(MAX_SEQS,)]  # the lengths


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dim", [8, 16, 32])
@pytest.mark.parametrize(("group", "residual"), [(8, 24), (16, 16)])
def test_allocated_bytes_are_those_counted(bits: int, dim: int, group: int, residual: int) -> None:
    cache = make_cache(bits, group=group, residual=residual, dim=dim)
    assert cache.allocated == NUM_BLOCKS * cache.block_bytes() + MAX_SEQS * cache.sequence_bytes()
    assert cache.sequence_bytes() == residual * 2 * KV_HEADS * dim * 4


def test_two_bits_in_groups_of_32_take_three_bits_an_element() -> None:
    cache = KiviScheme(2, 32, 128).cache_layer(make_heads(dim=64), 32, 0)
    assert cache.block_bytes() * 8 == 3 * 32 * KV_HEADS * 2 * 64


@pytest.mark.parametrize("window", [None, 5, 20, 40])
def test_bytes_read_and_written_are_those_of_the_tensors_touched(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(window=window)
    moved = {"read": 0, "written": 0}
    load, store = cache._load, cache._store

    def sized(name: str, count: int) -> int:
        return sum(part[0].numel() * part.element_size() * count for part in cache._groups(name))

    def counting_load(name: str, at: torch.Tensor, out: torch.Tensor) -> None:
        moved["read"] += sized(name, len(at))
        load(name, at, out)

    def counting_store(name: str, at: torch.Tensor, x: torch.Tensor) -> None:
        moved["written"] += sized(name, len(at))
        store(name, at, x)

    monkeypatch.setattr(cache, "_load", counting_load)
    monkeypatch.setattr(cache, "_store", counting_store)
    k, v = entries(LENGTH)
    start = 0
    for end in [3, 4, 30, 48, 49, 50, 90, 95, 96, 97, LENGTH]:
        step = make_step([Part(0, range(7), start, end)])
        moved.update(read=0, written=0)
        before = [cache.tensors[n].clone() for n in ("k_window", "v_window")]
        new = k[start:end], v[start:end]
        shown_k, shown_v = cache.read(step, 0, *new)
        cache.write(step, *new)
        changed = sum(
            int((cache.tensors[n] != old).sum()) * 4
            for n, old in zip(("k_window", "v_window"), before, strict=True)
        )
        first = 0 if window is None else max(0, start - window + 1)
        packed_keys, packed_values = start - start % RESIDUAL, max(0, start - RESIDUAL)
        full = (end - max(packed_keys, first)) + (end - max(packed_values, first))
        assert cache.read_bytes(step) == moved["read"] + full * KV_HEADS * DIM * 4
        assert cache.write_bytes(step) == moved["written"] + changed
        assert len(shown_k) == len(shown_v) == end
        start = end


@pytest.mark.parametrize("window", [5, 20, 40])
def test_a_sliding_window_sees_the_newest_entries_only(window: int) -> None:
    k, v = entries(LENGTH)
    q = torch.randn(LENGTH, 4, DIM, generator=torch.Generator().manual_seed(7))
    sliding, whole = make_cache(4, window=window), make_cache(4)
    reference = make_dense(window=window)
    start = 0
    for end in [60, 61, 62, 90, LENGTH]:
        step = make_step([Part(0, range(7), start, end)])
        # What the cache without a window holds, put through dense attention with one.
        shown = whole.read(step, 0, k[start:end], v[start:end])
        whole.write(step, k[start:end], v[start:end])
        reference.write(make_step([Part(0, range(7), 0, end)]), *shown)
        expected_out = attend_sequence(q[start:end], *reference.read(step, 0), reference.heads)
        out = attend(sliding, step, q[start:end], k[start:end], v[start:end])
        assert torch.allclose(out, expected_out, atol=1e-6), end
        start = end


def test_rejected_drafts_leave_no_trace() -> None:
    k, v = entries(LENGTH)
    junk = torch.full((9, KV_HEADS, DIM), 1e4)
    plain, drafted = make_cache(), make_cache(drafts=9)
    feed(plain, k, v, list(range(1, LENGTH + 1)))
    start = 0
    for right, wrong in itertools.cycle([(1, 0), (1, 9), (4, 3), (6, 0), (2, 7), (1, 1)]):
        right = min(right, LENGTH - start)
        end = start + right
        step = make_step([Part(0, range(8), start, end + wrong, drafts=right - 1 + wrong)])
        drafted.write(step, torch.cat((k[start:end], junk[:wrong])), torch.cat((v[start:end], junk[:wrong])))
        drafted.commit(0, end, range(8))
        start = end
        if start == LENGTH:
            break
    for name, tensor in plain.tensors.items():
        if not name.endswith("window"):  # whose entries that are packed by now may be stale
            assert torch.equal(tensor, drafted.tensors[name]), name
    for a, b in zip(held(plain, 0, LENGTH), held(drafted, 0, LENGTH), strict=True):
        assert torch.equal(a, b)


def test_entries_that_were_no_drafts_cannot_be_voided() -> None:
    k, v = entries(10)
    cache = make_cache()
    cache.write(make_step([Part(0, range(1), 0, 10)]), k, v)
    with pytest.raises(AssertionError, match="8 entries, 10 before"):
        cache.commit(0, 8, range(1))


def test_sequences_of_a_batch_do_not_touch_each_other() -> None:
    lengths, cuts = [LENGTH, 40, 75], [[60, 61, 80, LENGTH], [20, 25, 39, 40], [25, 50, 74, 75]]
    data = [entries(n, seed) for seed, n in enumerate(lengths)]
    together = make_cache()
    blocks = [list(range(i, NUM_BLOCKS, 3))[:8] for i in range(3)]
    alone = [feed(make_cache(), k, v, c) for (k, v), c in zip(data, cuts, strict=True)]
    starts = [0, 0, 0]
    for i in range(4):
        parts = [Part(2 - s, blocks[s], starts[s], cuts[s][i]) for s in range(3)]
        step = make_step(parts)
        new = [[x[p.start : p.end] for x in data[s]] for s, p in enumerate(parts)]
        both = torch.cat([n[0] for n in new]), torch.cat([n[1] for n in new])
        for s in range(3):
            for a, b in zip(together.read(step, s, *both), alone[s][i], strict=True):
                assert torch.equal(a, b), (i, s)
            starts[s] = cuts[s][i]
        together.write(step, *both)


def test_a_released_row_serves_the_next_sequence() -> None:
    (k, v), (other_k, other_v) = entries(LENGTH, 1), entries(LENGTH, 2)
    used, fresh = make_cache(drafts=3), make_cache()
    feed(used, k, v, [50, 51, 70])
    used.write(make_step([Part(0, range(7), 70, 75, drafts=3)]), k[70:75], v[70:75])
    used.release(0)
    cuts = [20, 21, 60, LENGTH]
    for a, b in zip(feed(used, other_k, other_v, cuts), feed(fresh, other_k, other_v, cuts), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_a_row_goes_on_only_where_it_ended() -> None:
    k, v = entries(LENGTH)
    cache = make_cache()
    feed(cache, k, v, [30])
    with pytest.raises(AssertionError):
        cache.write(make_step([Part(0, range(7), 29, 31)]), k[29:31], v[29:31])


def test_eight_bits_are_close_and_more_bits_are_closer() -> None:
    k, v = entries(LENGTH)
    errors = []
    for bits in (2, 4, 8):
        shown = feed(make_cache(bits), k, v, [LENGTH - 1, LENGTH])[1]
        errors.append(max(float((a - b).abs().max()) for a, b in zip(shown, (k, v), strict=True)))
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0
    assert errors[2] < 0.1


def test_elementwise_work_follows_what_is_packed() -> None:
    cache = make_cache()
    short = StepInput([Span(1, RESIDUAL)], 1, 1)
    assert cache.widen_flop(short) == 0
    long = StepInput([Span(1, 101), Span(1, 1)], 2, 2)
    packed = (100 - 100 % RESIDUAL) + (100 - RESIDUAL)
    assert cache.widen_flop(long) == 4 * packed * KV_HEADS * DIM
    assert cache.pack_flop(long) == 9 * 1 * KV_HEADS * DIM  # one token's values leave the window
    full = StepInput([Span(1, 4 * RESIDUAL)], 1, 1)
    assert cache.pack_flop(full) == 9 * (RESIDUAL + 1) * KV_HEADS * DIM
