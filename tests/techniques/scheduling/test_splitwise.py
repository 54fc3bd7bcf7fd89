"""Splitwise's pools: shortest queues, machines that help out and return, copies that overlap with prompts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fleet.harness import tiny_fleet

from twofold.devices.links import Link
from twofold.fleet.load import Load
from twofold.fleet.policy import Arrival, Onward
from twofold.fleet.wire import Computed, Wire
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.techniques.scheduling.pools import Pools

TRACE = Path(os.environ.get("TWOFOLD_DATA") or os.devnull) / "azure-llm-2023-conv.csv"


def machine(pending: int = 0, waiting: int = 0, free: int = 100) -> Any:
    load = Load(100, free, 16, 8, pending, (), (), None, waiting, 0)
    return SimpleNamespace(load=load, decoding=())


def pools() -> Pools:
    return Pools(2, 2, longest_queue=1000, layerwise_from=512, token_device=None)


def test_prompts_go_to_the_shortest_queue_and_tokens_to_the_freest_memory() -> None:
    policy = pools()
    members = [machine(500), machine(200), machine(free=10), machine(free=50)]
    assert policy.dispatch(Arrival("a", 64, 0), members) == 1
    assert policy._assigned["a"][:2] == (1, 3)
    # What is on its way counts: 40 blocks are expected at machine 3, so that machine 2 has as many free.
    policy.dispatch(Arrival("b", 41 * 16, 0), members)
    assert policy._assigned["b"][1] == 3
    policy.dispatch(Arrival("c", 16, 0), members)
    assert policy._assigned["c"][1] == 2
    assert policy.goes_on("a") == Onward(3, 512)


def test_machines_help_the_loaded_pool_and_return() -> None:
    policy = pools()
    loaded = [machine(990, waiting=3), machine(995, waiting=3), machine(5), machine(1)]
    assert policy.dispatch(Arrival("a", 64, 0), loaded) == 3
    assert policy.goes_on("a") == Onward(2, 512)
    assert policy.mixed_pool == [3]
    assert policy.counters["joined_mixed_pool"] == 1
    idle = [machine(), machine(), machine(), machine()]
    policy.ended("a")
    policy.dispatch(Arrival("b", 64, 0), idle)
    assert policy.mixed_pool == []
    assert sorted(policy.token_pool) == [2, 3]


def test_layers_are_sent_while_later_ones_are_computed() -> None:
    link = Link(bandwidth=100.0, latency=0.0)
    # 10 layers in 10 s, 100 bytes: 1 s of sending, of which a tenth is left when the prompt is done.
    assert Wire(link).send(100, 0, 1, 10.0).due == pytest.approx(11.0)
    assert Wire(link).send(100, 0, 1, 10.0, Computed(0.0, 10.0, 10)).due == pytest.approx(10.1)
    # 20 s of sending outlast the prompt: they begin with its first layer.
    assert Wire(link).send(2000, 0, 1, 10.0, Computed(0.0, 10.0, 10)).due == pytest.approx(21.0)
    wire = Wire(link)
    wire.send(100, 0, 1, 0.0)
    assert wire.send(100, 0, 2, 0.0).due == pytest.approx(2.0)  # one after the other from one machine


def test_prompts_are_computed_here_and_tokens_there() -> None:
    from twofold.engine.request import SamplingParams

    fleet = tiny_fleet("splitwise")
    fleet.generate([[5, 6, 7] * 10, [9, 8] * 20], SamplingParams(max_tokens=6, ignore_eos=True))
    prompt, token = (engine.totals for engine in fleet.engines)
    assert prompt.prompt_tokens == 70
    assert prompt.decodes == 0
    assert token.prompt_tokens == 0
    assert token.decodes == 10
    blocks = -(-30 // 16) + -(-40 // 16)
    assert fleet.sent_bytes == blocks * fleet.instances[0].block_bytes


@pytest.mark.skipif(not TRACE.is_file(), reason="TWOFOLD_DATA does not name a folder with the Azure traces")
@pytest.mark.parametrize(
    "use", ["splitwise:prompt=2,token=1", "splitwise:token_device=a100-80g-sxm", "llumnix"]
)
def test_the_azure_trace_drives_predictions(use: str) -> None:
    plan = Plan.from_dict(
        {"model": "llama-3.1-8b", "techniques": [use], "workload": {"trace": str(TRACE), "requests": 60}}
    )
    result = predict_plan(plan, "h100-sxm")
    name = use.partition(":")[0]
    assert result.counters["engine"]["output_tokens"] > 0
    assert result.counters[name]["prompts" if name == "splitwise" else "dispatched"] == 60
    assert result.derived["instances"] == {"splitwise:prompt=2,token=1": 3}.get(use, 2)
