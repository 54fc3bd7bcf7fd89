"""Shards: every weight is held by some rank, none twice where it is cut, and the ranks together compute what
the whole model does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.blocks import random_blocks
from tests.models.tiny import FAMILIES, VOCAB
from tests.test_invariants import USES
from tests.tiny import tiny_checkpoint, tiny_plan
from tests.waiting import PATIENCE

from twofold.devices.torch_device import TorchDevice
from twofold.engine.share import build_share, make_techniques
from twofold.kernels.cpu import native
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheSize
from twofold.models.catalog import get_spec
from twofold.models.gguf_types import widener
from twofold.models.parallel import Parallel
from twofold.models.shard import Cut, Part, Shard, cut_stored, whole
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint, StoredTensor
from twofold.models.transformer import Transformer
from twofold.ops import AllGather, AllReduce
from twofold.ops.attention import Span
from twofold.ops.base import Op

UNEVEN = ModelSpec("uneven", "llama", 1, 64, 9, 3, 16, 96, 100, 128)


@given(total=st.integers(1, 500), world=st.integers(1, 9), unit=st.sampled_from([1, 16, 32]))
def test_shares_cover_everything_once_and_the_first_is_the_largest(total: int, world: int, unit: int) -> None:
    if -(-total // unit) < world:
        with pytest.raises(ValueError, match="tp may be at most"):
            Shard(0, world).share(total, unit)
        return
    cuts = [Shard(rank, world).share(total, unit) for rank in range(world)]
    assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(total))
    assert all(cut.start % unit == 0 for cut in cuts)
    sizes = [cut.size for cut in cuts]
    assert min(sizes) > 0
    assert sizes[0] == max(sizes)
    assert max(sizes) - min(sizes) < 2 * unit


def test_heads_are_cut_by_whole_groups_or_share_one() -> None:
    spec = UNEVEN  # 9 heads in 3 groups
    assert [Shard(r, 2).kv_heads(spec) for r in (0, 1)] == [Cut(0, 2, 3), Cut(2, 3, 3)]
    assert [Shard(r, 2).heads(spec) for r in (0, 1)] == [Cut(0, 6, 9), Cut(6, 9, 9)]
    shared = [(Shard(r, 9).heads(spec), Shard(r, 9).kv_heads(spec)) for r in range(9)]
    assert [(heads.start, heads.size, kv.start, kv.size) for heads, kv in shared] == [
        (r, 1, r // 3, 1) for r in range(9)
    ]
    for tp in (2, 3, 9):
        Parallel(tp=tp).check(spec)
    with pytest.raises(ValueError, match=r"tp may be \[1, 2, 3, 9\]"):
        Parallel(tp=6).check(spec)


def test_a_prediction_counts_the_largest_share() -> None:
    spec = get_spec("smollm2-135m")
    options = [ModelOptions("bf16", Parallel(tp=2), rank=rank) for rank in (0, 1)]
    first, second = (build_model(spec, o) for o in options)
    assert (first.caches[0].heads.heads, first.caches[0].heads.kv_heads) == (6, 2)
    assert (second.caches[0].heads.heads, second.caches[0].heads.kv_heads) == (3, 1)
    assert first.caches[0].block_bytes() == 2 * second.caches[0].block_bytes()
    assert (
        first.weight_bytes()
        > second.weight_bytes()
        > build_model(spec, ModelOptions("bf16")).weight_bytes() / 2
    )


# --- packed bytes ---


def tensor(name: str, fmt: str, rows: int, cols: int) -> StoredTensor:
    return StoredTensor(name, fmt, (rows, cols), random_blocks(fmt, rows, cols, seed=rows), widener(fmt))


@pytest.mark.parametrize("fmt", ["q4_1", "q8_0", "q5_0"])
def test_cuts_of_packed_rows_and_columns_keep_their_values(fmt: str) -> None:
    stored = tensor("w", fmt, 48, 128)
    for rows, columns in (
        (Cut(16, 48, 48), whole(128)),
        (whole(48), Cut(32, 96, 128)),
        (Cut(3, 7, 48), Cut(96, 128, 128)),
    ):
        cut = cut_stored(stored, Part("w", rows, columns))
        expected = stored.float()[rows.start : rows.stop, columns.start : columns.stop]
        assert cut.shape == tuple(expected.shape)
        assert torch.equal(cut.float(), expected)


@pytest.mark.skipif(native() is None, reason="the native kernels are not built")
def test_a_part_of_a_packed_matrix_is_the_same_memory() -> None:
    checkpoint = Checkpoint(UNEVEN, {"embed": tensor("embed", "q8_0", 100, 64)}, None, "")
    table = StoredWeights(checkpoint, load=True).matrix([Part("embed", whole(100), whole(64))])
    assert table is not None
    part = table.part(64, 100)
    assert torch.equal(part.widen(torch.float32), table.widen(torch.float32)[64:])
    assert (
        part.tensors["packed"].untyped_storage().data_ptr()
        == table.tensors["packed"].untyped_storage().data_ptr()
    )
    assert part.allocated == part.nbytes


def test_a_block_cannot_be_cut() -> None:
    checkpoint = Checkpoint(UNEVEN, {"layers.0.o": tensor("o", "q4_k", 64, 512)}, None, "")
    stored = StoredWeights(checkpoint, load=False)
    assert stored.matrix([Part("layers.0.o", whole(64), Cut(0, 256, 512))]) is not None
    with pytest.raises(ValueError, match=r"blocks of 256 .*weights 'dense'"):
        stored.matrix([Part("layers.0.o", whole(64), Cut(0, 384, 512))])


# --- bytes and sums of all ranks ---


class Meeting:
    """Where the ranks of `ThreadedRank` exchange tensors."""

    def __init__(self, world: int) -> None:
        self.barrier = Barrier(world, timeout=PATIENCE)
        self.given: dict[int, torch.Tensor] = {}

    def exchange(self, rank: int, x: torch.Tensor) -> list[torch.Tensor]:
        """What every rank gave, in order."""
        self.given[rank] = x.clone()
        self.barrier.wait()
        found = [self.given[r] for r in sorted(self.given)]
        self.barrier.wait()
        return found


class ThreadedRank(TorchDevice):
    """A rank that is a thread of this process: its collectives meet in memory."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__("cpu", rank=rank, ranks=meeting.barrier.parties)
        self.meeting = meeting

    def execute(self, op: Op, *args: Any) -> Any:
        """As `TorchDevice`, but for the collectives."""
        if isinstance(op, AllReduce | AllGather):
            assert op.world == self.ranks
            found = self.meeting.exchange(self.rank, args[0])
            return torch.stack(found).sum(0) if isinstance(op, AllReduce) else torch.cat(found, -1)
        return super().execute(op, *args)


def share(family: str, tp: int, device: TorchDevice, techniques: list[Any]) -> Transformer:
    checkpoint = tiny_checkpoint(family)
    plan = tiny_plan(parallel={"tp": tp}, techniques=techniques, engine={"kernels": "reference"})
    made = make_techniques(plan, checkpoint.spec)
    return build_share(plan, made, device, checkpoint.spec, checkpoint).model


def logits_of(model: Transformer, device: TorchDevice) -> torch.Tensor:
    """Logits of every token of one prompt of 24, in blocks of 32 slots."""
    for cache in model.caches:
        cache.allocate(CacheSize(2, cache.block_size, 1), device.where)
    ids = torch.arange(24) * 37 % (VOCAB - 3) + 3
    at = torch.arange(24)
    rows, tables = [0], [[0, 1]]
    block = model.caches[0].block_size
    step = StepInput([Span(24, 24)], 24, 24, ids, at, at, None, rows, at, (), tables, block)
    with torch.inference_mode():
        logits: torch.Tensor = model.forward(step, device)
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ranks_together_compute_what_the_whole_model_does(family: str) -> None:
    whole_model = share(family, 1, TorchDevice("cpu"), [])
    expected = logits_of(whole_model, TorchDevice("cpu"))
    meeting = Meeting(2)
    devices = [ThreadedRank(rank, meeting) for rank in (0, 1)]
    models = [share(family, 2, device, []) for device in devices]
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(logits_of, models, devices))
    assert torch.equal(got[0], got[1])
    assert (got[0] - expected).abs().max() < 2e-4 * expected.abs().max()
    assert all(model.allocated() == model.weight_bytes() for model in models)
    assert models[0].weight_bytes() >= models[1].weight_bytes() > whole_model.weight_bytes() / 2
    cache = [sum(c.allocated for c in model.caches) for model in (whole_model, *models)]
    assert cache[1] + cache[2] == cache[0]


@pytest.mark.parametrize("technique", ["int-vs-fp", "kivi", "llm-drop"])
@pytest.mark.parametrize("rank", [0, 1])
def test_bytes_of_each_rank_are_those_that_are_counted(technique: str, rank: int) -> None:
    device = ThreadedRank(rank, Meeting(2))
    params = {**USES[technique]}
    if technique == "llm-drop":
        params = {"attention_layers": [1]}  # without calibration, for which ranks would have to meet
    model = share("qwen3", 2, device, [{"name": technique, "params": params}])
    assert model.allocated() == model.weight_bytes()
    for cache in model.caches:
        cache.allocate(CacheSize(3, cache.block_size, 2), device.where)
        assert cache.allocated == 3 * cache.block_bytes() + 2 * cache.sequence_bytes()
