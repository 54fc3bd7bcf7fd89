"""SparF: what is compared, kept and read, against dense attention."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_engine

from twofold.engine.request import SamplingParams
from twofold.kernels.reference.attention import attend_sequence
from twofold.models.cache import CacheSize, Heads
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.sparf_attention import SparfAttention
from twofold.techniques.attention.sparf import Sparf
from twofold.techniques.attention.sparf_cache import Choice, SparfCache, sparf_attention

HEADS = Heads(8, 4, 16, 16, 0.25, None, None, "fp32", 4)
BLOCK, ENTRIES = 8, 45
TABLE = [5, 2, 7, 1, 6, 3]
WHERE = torch.device("cpu")


def filled(compression: int, group: int = 4) -> SparfCache:
    """A cache that holds ENTRIES random entries of one sequence in the blocks of TABLE."""
    cache = SparfCache(HEADS, BLOCK, Choice(compression, group, 0.5))
    cache.allocate(CacheSize(9, BLOCK, 1), WHERE)
    torch.manual_seed(1)
    k, v = torch.randn(2, ENTRIES, 4, 16)
    cache.store(slots()[: ENTRIES - 6], k[:-6], v[:-6])
    for at in range(ENTRIES - 6, ENTRIES):
        cache.store(slots()[at : at + 1], k[at : at + 1], v[at : at + 1])
    return cache


def slots() -> torch.Tensor:
    return torch.tensor([TABLE[i // BLOCK] * BLOCK + i % BLOCK for i in range(ENTRIES)])


def step(queries: int = 1) -> StepInput:
    return StepInput([Span(queries, ENTRIES)], queries, 1, tables=[slots()])


def attend(cache: SparfCache, queries: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """SparF's output and that of dense attention for the same random queries."""
    torch.manual_seed(2)
    q = torch.randn(queries, 8, 16)
    op = cache.ops(step(queries))[1]
    assert isinstance(op, SparfAttention)
    ours = sparf_attention(op, q, cache, step(queries))
    return ours, attend_sequence(q, *cache.load(slots()), HEADS)


def test_nothing_left_out_is_dense_attention() -> None:
    """All elements compared and all keys kept."""
    ours, dense = attend(filled(1))
    torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries", [3, 32])
def test_few_queries_choose_each_for_itself(queries: int) -> None:
    """With all keys kept as dense attention; otherwise each as it would alone."""
    ours, dense = attend(filled(1), queries)
    torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-5)


def test_many_queries_attend_to_everything() -> None:
    """A prompt."""
    ours, dense = attend(filled(4), 40)
    torch.testing.assert_close(ours, dense)


def test_better_than_as_few_recent_keys() -> None:
    """What is kept says more of dense attention than as many of the newest keys do."""
    cache = filled(3)
    ours, dense = attend(cache)
    torch.manual_seed(2)
    q = torch.randn(1, 8, 16)
    recent = attend_sequence(q, *cache.load(slots()[-cache.choice.kept(ENTRIES) :]), HEADS)
    assert (ours - dense).norm() < 0.7 * (recent - dense).norm()


def test_what_is_not_kept_counts_by_its_mean() -> None:
    """Where all values are the same, so is what comes out, whatever is kept; sums are those of the values."""
    cache = filled(8)
    cache.store(slots(), torch.randn(ENTRIES, 4, 16), torch.ones(ENTRIES, 4, 16))
    ours, _ = attend(cache)
    torch.testing.assert_close(ours, torch.ones_like(ours))
    torch.testing.assert_close(cache.tensors["sums"][TABLE[0]], torch.full((4, 16), float(BLOCK)))


def test_keys_are_stored_twice() -> None:
    """Both copies hold the same, and the bytes are those that are allocated."""
    cache = filled(4)
    again = cache.tensors["channels"].permute(0, 3, 1, 2)
    torch.testing.assert_close(again[TABLE[:5]], cache.tensors["k"][TABLE[:5]])
    assert cache.allocated == 9 * cache.block_bytes()


def test_op_counts_what_is_read() -> None:
    """Compared elements, kept entries, sums of full blocks, and entries behind them."""
    op = filled(4).ops(step())[1]
    assert isinstance(op, SparfAttention)
    assert (op.rank, op.kept, op.groups) == (4, 12, 6)
    sums = ENTRIES // BLOCK * 16 * 4 + ENTRIES % BLOCK * 16 * 4
    assert op.cache_bytes == 4 * ((12 * 32 + ENTRIES * 4) * 4 + sums)
    assert op.cost().flop == 2 * 8 * (12 * 32 + ENTRIES * 4)
    prompt = filled(4).ops(step(40))[1]
    assert isinstance(prompt, SparfAttention)
    assert prompt.kept == 0
    assert prompt.cost().flop == 2 * 8 * 32 * prompt.totals.pairs


def test_groups_are_measured() -> None:
    """A run tells how many groups held a key that was kept: at least its share, at most all."""
    engine = tiny_engine(techniques=[{"name": "sparf", "params": {"compression": 4, "group": 4}}])
    engine.play([(0.0, list(range(3, 60)), SamplingParams(max_tokens=8, ignore_eos=True))])
    share = engine.actives[0].measured()["groups_read"]
    assert 0.25 <= share < 1.0


def test_parameters_are_checked() -> None:
    """By name, with what is allowed."""
    with pytest.raises(ValueError, match="compression must be at least 2"):
        Sparf(compression=1)
    with pytest.raises(ValueError, match="compression must be at most"):
        Sparf(compression=500).check(get_spec("llama-2-7b"))
    with pytest.raises(ValueError, match="one latent"):
        Sparf().check(get_spec("deepseek-v3"))
