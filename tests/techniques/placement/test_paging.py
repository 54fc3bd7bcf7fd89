"""Techniques that map pages, in the engine: the same tokens as block tables give, the same counters as
predicted, and memory as the kernel counts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.test_engine import prompts
from tests.test_invariants import TimedModel, repetitive
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.devices.cpu_device import CpuDevice
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan
from twofold.techniques.placement.kernel_pages import OutOfMappingsError
from twofold.techniques.placement.pager import Pager
from twofold.techniques.placement.vattention import VAttention
from twofold.techniques.placement.vtensor import VTensor

TECHNIQUES = ["vattention", "vtensor"]
PAGE = {"vattention": {"page_size": 4096}, "vtensor": {"chunk_size": 4096}}


def engine_with(name: str, params: dict[str, Any] | None = None, **changes: Any) -> Engine:
    return tiny_engine(techniques=[{"name": name, "params": {**PAGE[name], **(params or {})}}], **changes)


def pager_of(engine: Engine) -> Pager:
    pager = engine.runner.rank.paging
    assert isinstance(pager, Pager)
    return pager


def tokens(engine: Engine, asked: list[list[int]], count: int = 24) -> list[list[int]]:
    params = SamplingParams(max_tokens=count, ignore_eos=True)
    return [c.token_ids for c in engine.generate(asked, params)]


@pytest.mark.parametrize("name", TECHNIQUES)
def test_memory_is_what_the_kernel_counts(name: str) -> None:
    engine = engine_with(name)
    pager = pager_of(engine)
    assert pager.storage is not None
    assert pager.storage.pages.resident_bytes == 0
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    for prompt in prompts(6, seed=4):
        engine.add(prompt, params)
    while engine.has_work:
        engine.step()
        pager._wait()
        assert pager.storage.pages.resident_bytes == pager.counters["resident_bytes"]
    assert pager.counters["resident_bytes"] <= engine.memory.cache


def test_reads_are_views_of_the_row_and_not_copies() -> None:
    engine = engine_with(
        "vattention", engine={"max_num_seqs": 2, "max_context": 256, "prefix_caching": False}
    )
    engine.add([(5 * i) % 150 + 3 for i in range(60)], SamplingParams(max_tokens=40, ignore_eos=True))
    cache, seen = engine.runner.caches[0], []
    read = cache.read

    def noted(step: Any, seq: int, *new: torch.Tensor) -> Any:
        k, v = read(step, seq, *new)
        seen.append((k.data_ptr(), len(k), step.starts))
        return k, v

    cache.read = noted  # type: ignore[method-assign]
    while engine.has_work:
        engine.step()
    assert len({address for address, _, _ in seen}) == 1, "a sequence moved while it grew"
    assert seen[-1][1] > 96, "it never grew beyond a block"
    low, size = cache.tensors["k"].data_ptr(), cache.tensors["k"].nbytes
    assert low <= seen[0][0] < low + size


@pytest.mark.parametrize("name", TECHNIQUES)
@pytest.mark.parametrize("kernels", ["native-fp32", "reference"])
def test_native_kernels_give_the_same_tokens(name: str, kernels: Any) -> None:
    if kernels == "native-fp32":
        pytest.importorskip("twofold.kernels.cpu._native")
    asked = repetitive(3) + prompts(3, seed=9)
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "cache_format": "f32"}
    if kernels == "reference":
        limits.pop("cache_format")
    plain = tiny_engine(device=CpuDevice(kernels=kernels, threads=1), engine=limits)
    mapped = engine_with(name, device=CpuDevice(kernels=kernels, threads=1), engine=limits)
    assert tokens(mapped, asked) == tokens(plain, asked)
    assert pager_of(mapped).counters["pages_mapped"] > 0


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_prefix_is_mapped_twice_and_held_once(name: str) -> None:
    engine = engine_with(name)
    prompt = [(7 * i) % 140 + 5 for i in range(100)]
    first = tokens(engine, [[*prompt, 9]], 8)
    pager = pager_of(engine)
    before = pager.counters["pages_shared"]
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    for last in (9, 9):
        engine.add([*prompt, last], params)
    resident, requests = [], []
    while engine.has_work:
        requests += engine.step()
        resident.append(pager.counters["resident_bytes"])
    assert [r.output_ids for r in requests] == first * 2
    shared_blocks = 100 // engine.scheduler.blocks.block_size
    assert pager.counters["pages_shared"] - before == shared_blocks * pager.pages.pages_per_block
    # Two sequences of four blocks each, three of which are the same.
    assert max(resident) <= (shared_blocks + 2 + 2) * pager.pages.block_bytes


def test_vtensor_gives_free_memory_back_and_vattention_keeps_it() -> None:
    limits = {"max_num_seqs": 2, "max_num_batched_tokens": 64, "max_context": 256, "prefix_caching": False}
    asked = prompts(4, seed=3)
    keeps, gives = engine_with("vattention", engine=limits), engine_with("vtensor", engine=limits)
    assert tokens(keeps, asked) == tokens(gives, asked)
    for engine, left in ((keeps, True), (gives, False)):
        pager = pager_of(engine)
        assert pager.storage is not None
        assert bool(pager.storage.pages.resident_bytes) is left
    assert pager_of(keeps).counters["pages_reused"] > 0
    assert pager_of(gives).counters["pages_reused"] == 0
    assert pager_of(gives).counters["pages_unmapped"] == pager_of(gives).counters["pages_mapped"]


def test_pages_are_mapped_ahead_of_need() -> None:
    asked = [[(5 * i) % 150 + 3 for i in range(30)]]
    late, early = engine_with("vattention", {"eager_steps": 0}), engine_with("vattention")
    assert tokens(late, asked, 100) == tokens(early, asked, 100)
    assert pager_of(late).counters["pages_mapped_ahead"] == 0
    ahead = pager_of(early).counters
    assert ahead["pages_mapped_ahead"] > 0
    # Only what the prompt needs is mapped in time of need.
    assert ahead["pages_mapped"] - ahead["pages_mapped_ahead"] == pager_of(early).pages.pages_per_block


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_short_memory(name: str, preemption: str) -> None:
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "preemption": preemption}
    asked = [p[:40] for p in prompts(6, seed=6, longest=60)]
    engine = engine_with(name, engine={**limits, "cache_blocks": 7})
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    requests = [engine.add(prompt, params) for prompt in asked]
    pager = pager_of(engine)
    assert pager.storage is not None
    while engine.has_work:
        engine.step()
        pager._wait()
        assert pager.storage.pages.resident_bytes == pager.counters["resident_bytes"]
    assert [r.output_ids for r in requests] == tokens(tiny_engine(engine=limits), asked, 60)
    assert engine.scheduler.num_preempted > 0, "memory was never short: nothing was tested"


@pytest.mark.parametrize("name", TECHNIQUES)
def test_counters_are_the_same_where_nothing_is_computed(name: str) -> None:
    real = engine_with(name, engine={"max_num_seqs": 4, "max_context": 256, "prefix_caching": False})
    plan = tiny_plan(
        techniques=[{"name": name, "params": PAGE[name]}],
        engine={"max_num_seqs": 4, "max_context": 256, "prefix_caching": False},
        precision="fp32",
    )
    modelled = build_engine(plan, TimedModel(), tiny_checkpoint().spec)
    modelled.coast = lambda until: False  # type: ignore[method-assign]
    asked = prompts(7, seed=8)
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    real.play([(0.0, p, params) for p in asked])
    modelled.play([(0.0, len(p), params) for p in asked])
    assert pager_of(real).counters == pager_of(modelled).counters


def test_coasting_counts_the_same_growth() -> None:
    counted = []
    for coasts in (True, False):
        load = {"requests": 2, "prompt": 100, "output": 3000}
        plan = Plan.from_dict(
            {"model": "llama-3.1-8b", "precision": "fp16", "techniques": ["vattention"], "workload": load}
        )
        engine = build_engine(plan, make_device("a100-80g-sxm"), get_spec("llama-3.1-8b"))
        if not coasts:
            engine.coast = lambda until: False  # type: ignore[method-assign]
        engine.play([(0.0, 100, SamplingParams(max_tokens=3000, ignore_eos=True))] * 2)
        assert engine.derived["block_size"] == 1024
        counted.append(pager_of(engine).counters["pages_mapped"])
    # 3100 tokens are four blocks, of 32 layers with keys and values.
    assert counted == [2 * 4 * 64] * 2


def test_mapping_in_time_of_need_takes_time_on_a_gpu() -> None:
    seconds = []
    for eager in (0, 10):
        plan = Plan.from_dict(
            {
                "model": "llama-3.1-8b",
                "precision": "fp16",
                "techniques": [f"vattention:eager_steps={eager}"],
                "workload": {"requests": 1, "prompt": 1000, "output": 100},
            }
        )
        engine = build_engine(plan, make_device("a100-80g-sxm"), get_spec("llama-3.1-8b"))
        engine.play([(0.0, 1000, SamplingParams(max_tokens=100, ignore_eos=True))])
        seconds.append(engine.device.totals["map-pages"].seconds)
    # The prompt's 64 pages at 40 us each; the next 64 when the context passes 1024 tokens.
    assert seconds == pytest.approx([128 * 40e-6, 64 * 40e-6])


def test_too_many_mappings_drop_what_finished_sequences_left() -> None:
    engine = engine_with("vattention")
    tokens(engine, prompts(3, seed=1), 4)
    pager = pager_of(engine)
    assert pager.storage is not None
    assert pager.pages.stale_rows()
    real, calls = pager.storage.map, []

    def full_once(runs: Any) -> None:
        calls.append(runs)
        if len(calls) == 1:
            raise OutOfMappingsError("full")
        real(runs)

    pager.storage.map = full_once  # type: ignore[method-assign]
    expected = tokens(tiny_engine(), prompts(3, seed=2), 6)
    assert tokens(engine, prompts(3, seed=2), 6) == expected
    assert len(calls) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAttention(page_size=5000), "use 4096"),
        (lambda: VAttention(eager_steps=-1), "must not be negative"),
        (lambda: VTensor(chunk_size=100), "use 4096"),
        (lambda: VTensor(extend_ahead=-5), "must not be negative"),
        (
            lambda: engine_with("vattention", engine={"block_size": 16, "max_context": 256}),
            "use block_size=32",
        ),
        (lambda: tiny_engine(techniques=["vattention", "vtensor"]), "one manager"),
        (lambda: tiny_engine(techniques=["vattention", "kivi"]), "leave one of the two out"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
