"""Sarathi: one chunk a batch, batches of whole tiles, no decode left out, outputs as under any policy."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_engine

from twofold.devices.catalog import get_device
from twofold.devices.cluster import Cluster
from twofold.engine.batch import Batch
from twofold.engine.blocks import BlockManager
from twofold.engine.build import build_engine
from twofold.engine.policy import Mixed, SchedulingPolicy
from twofold.engine.request import Request, SamplingParams
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.engine.simulated_model import SimulatedModel
from twofold.models.catalog import get_spec
from twofold.plan import ParallelPlan, Plan, TechniqueUse
from twofold.techniques.pairs import conflict
from twofold.techniques.registry import make_technique
from twofold.techniques.scheduling.sarathi import Sarathi

Load = list[tuple[int, int]]
LOADS = st.lists(st.tuples(st.integers(1, 120), st.integers(1, 25)), min_size=1, max_size=25)
BLOCK = 4


def play(
    policy: SchedulingPolicy | None,
    load: Load,
    *,
    num_blocks: int = 4096,
    seats: int = 8,
    seed: int = 0,
    watch: Callable[[Scheduler, Batch], None] = lambda _, __: None,
) -> dict[str | int, list[int]]:
    """Outputs of requests of (prompt, output) tokens that come in a few at a time."""
    config = SchedulerConfig(max_num_seqs=seats, max_num_batched_tokens=4096)
    blocks = BlockManager(num_blocks, BLOCK, prefix_caching=False)
    scheduler, model, rng = Scheduler(config, blocks, policy), SimulatedModel(blocks), Random(seed)
    waiting = [
        Request(i, [rng.randrange(1000) for _ in range(p)], SamplingParams(max_tokens=d, ignore_eos=True))
        for i, (p, d) in enumerate(load)
    ]
    everyone = list(waiting)
    for step in range(20_000):
        if waiting and (not scheduler.has_work or rng.random() < 0.3):
            scheduler.add(waiting.pop(0))
        if not waiting and not scheduler.has_work:
            break
        batch = scheduler.schedule(float(step))
        watch(scheduler, batch)
        model.copy_blocks(batch)
        sampled = [model.execute(entry) for entry in batch.entries]
        scheduler.update(
            batch, [s if e.samples else [] for e, s in zip(batch.entries, sampled, strict=True)], step
        )
    assert all(request.is_finished for request in everyone)
    assert [request.num_output_tokens for request in everyone] == [d for _, d in load]
    return {request.id: request.output_ids for request in everyone}


@settings(max_examples=60, deadline=None)
@given(LOADS, st.sampled_from([(8, 4), (16, 16), (32, 8)]), st.integers(1, 20), st.integers(0, 99))
def test_invariants(load: Load, sizes: tuple[int, int], seats: int, seed: int) -> None:
    policy = Sarathi(*sizes).scheduling_policy()
    chunk, tile = sizes
    seen = {"chunks": 0, "piggybacked_decodes": 0, "whole_tile_batches": 0}

    def watch(scheduler: Scheduler, batch: Batch) -> None:
        decoding = {r.id for r in scheduler.running if not r.is_prefilling}
        assert decoding == {e.request.id for e in batch.entries if not e.is_prefill}
        assert batch.num_prefills <= 1
        if not batch.num_prefills:
            return
        seen["chunks"] += 1
        seen["piggybacked_decodes"] += batch.num_decodes
        seen["whole_tile_batches"] += batch.num_tokens % tile == 0
        (piece,) = (e for e in batch.entries if e.is_prefill)
        assert piece.num_tokens > 0
        assert batch.num_tokens <= max(chunk, batch.num_decode_tokens + chunk)
        if not piece.samples:
            assert batch.num_tokens % tile == 0
            if batch.num_decode_tokens < chunk:
                assert batch.num_tokens == chunk

    play(policy, load, seats=seats, seed=seed, watch=watch)
    assert policy.counters == seen
    assert policy.counters == seen  # asking changes nothing
    assert seen["chunks"] >= len(load)


@settings(max_examples=30, deadline=None)
@given(LOADS, st.integers(0, 99))
def test_outputs_equal_those_of_mixed_batches_when_memory_is_scarce(load: Load, seed: int) -> None:
    largest = max(-(-(p + d) // BLOCK) for p, d in load)
    policy = Sarathi(16, 8).scheduling_policy()
    scarce = play(policy, load, num_blocks=largest + 2, seed=seed)
    assert scarce == play(Mixed(), load, seed=seed)
    assert policy.counters["chunks"] >= len(load)


def test_the_chunk_makes_room_for_the_decodes() -> None:
    batches: list[Batch] = []
    load = [(10, 30), (10, 30), (10, 30), (400, 2)]
    play(Sarathi(128, 64).scheduling_policy(), load, watch=lambda _, batch: batches.append(batch))
    full = [b for b in batches if b.num_decodes == 3 and b.num_prefills and b.num_tokens == 128]
    assert [b.num_prefill_tokens for b in full[:3]] == [125, 125, 125]


def test_counters_move_for_prompts_shorter_than_a_chunk() -> None:
    engine = tiny_engine(techniques=({"name": "sarathi"},))
    engine.generate([[5, 6, 7], [8, 9, 10, 11]], SamplingParams(max_tokens=4, ignore_eos=True))
    (active,) = engine.actives
    assert active.counters["chunks"] == 2
    engine.check_techniques()


def test_greedy_output_stays() -> None:
    rng = Random(1)
    prompts = [[rng.randrange(3, 150) for _ in range(n)] for n in (5, 90, 33, 120, 64)]
    asked = SamplingParams(max_tokens=20, ignore_eos=True)
    expected = tiny_engine().generate(prompts, asked)
    engine = tiny_engine(techniques=({"name": "sarathi", "params": {"chunk": 32, "tile": 16}},))
    assert [c.token_ids for c in engine.generate(prompts, asked)] == [c.token_ids for c in expected]
    (active,) = engine.actives
    assert active.counters["piggybacked_decodes"] > 0
    assert engine.derived["policy"] == "sarathi"


def test_a_pipeline_goes_on_with_fewer_requests_than_stages() -> None:
    plan = Plan(model="llama-2-7b", parallel=ParallelPlan(pp=4), techniques=(TechniqueUse(name="sarathi"),))
    engine = build_engine(plan, Cluster(get_device("a100-80g-sxm"), pp=4).rank(), get_spec("llama-2-7b"))
    asked = SamplingParams(max_tokens=8, ignore_eos=True)
    requests = [engine.add(length, asked) for length in (600, 300)]
    for _ in range(200):
        engine.step()
    assert [request.num_output_tokens for request in requests] == [8, 8]


def test_it_needs_chunked_prefill() -> None:
    with pytest.raises(ValueError, match="chunked_prefill"):
        tiny_engine(techniques=({"name": "sarathi"},), engine={"chunked_prefill": False})


@pytest.mark.parametrize("name", ["chunk", "tile"])
@pytest.mark.parametrize("value", [0, -128, 0.5, "many", True])
def test_wrong_parameters_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        make_technique("sarathi", {name: value})


def test_a_chunk_of_broken_tiles_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="use chunk=256"):
        make_technique("sarathi", {"chunk": 300})


def test_two_policies_are_refused_together() -> None:
    assert "one technique that schedules" in conflict(Sarathi.info, Sarathi.info)
