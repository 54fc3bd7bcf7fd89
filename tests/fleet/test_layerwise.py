"""Caches that go with their prompts, layer by layer: what is told when, who waits for whom, and that nothing
is lost where a request ends, finds no room, or was sent for nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.devices.fake_native import fake_device
from tests.engine.test_engine import prompts
from tests.fleet.harness import TimedCpu, slow_wire, tiny_fleet
from tests.tiny import tiny_engine

from twofold.devices.base import Device
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.links import Link
from twofold.devices.torch_device import TorchDevice
from twofold.engine.batch import Batch
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.fleet import layerwise
from twofold.fleet.crate import Crate, CrateOutlet, Unloading
from twofold.fleet.fleet import Fleet
from twofold.fleet.wire import Computed, Wire
from twofold.kernels.cpu import native
from twofold.models.cache import CacheLayer

LONG = SamplingParams(max_tokens=12, ignore_eos=True)
ALL = {"layerwise_tokens": 0}
ONE_CHUNK = {"max_num_batched_tokens": 128}


def native_device() -> Device:
    if native() is None:
        pytest.skip("the native kernels are not built here")
    return CpuDevice(kernels="native-fp32", threads=1)


DEVICES: dict[str, Callable[[], Device]] = {
    "reference": lambda: TorchDevice("cpu"),
    "recorded": fake_device,
    "native": native_device,
}


class Watch:
    """Watches the steps that compute a prompt: of each layer, in the order in which they are told, whether
    the first cache block of the step's first request holds its entries by then, in this layer and in later
    ones."""

    def __init__(self, engine: Engine) -> None:
        self.caches = engine.runner.caches
        self.told: list[tuple[int, list[bool]]] = []
        self.steps = 0

    def begin(self, batch: Batch) -> Callable[[CacheLayer], None] | None:
        if not batch.num_prefills:
            return None
        self.block = batch.entries[0].request.block_table[0]
        for cache in self.caches:
            for tensor in cache.tensors.values():
                tensor[self.block] = 0
        return self.tell

    def tell(self, cache: CacheLayer) -> None:
        stored = [bool(c.tensors["k"][self.block].any()) for c in self.caches]
        self.told.append(([c is cache for c in self.caches].index(True), stored))

    def end(self) -> None:
        self.steps += 1


@pytest.mark.parametrize("kind", sorted(DEVICES))
def test_each_layer_is_told_once_it_is_stored_and_before_the_next(kind: str) -> None:
    device = DEVICES[kind]()
    engine = tiny_engine(device=device, engine={"max_context": 256, "prefix_caching": False})
    watch = engine.runner.sending = Watch(engine)
    # Prompts of one length: the first runs op by op, the second is recorded, the others are replayed.
    for start in range(4):
        engine.generate([[(start + 3 * i) % 150 + 3 for i in range(20)]], LONG)
    layers = len(engine.runner.caches)
    once = [(n, [m <= n for m in range(layers)]) for n in range(layers)]
    assert watch.steps == 4
    assert watch.told == once * 4


def test_a_replay_that_nobody_watches_makes_no_calls_for_it() -> None:
    device = fake_device()
    engine = tiny_engine(device=device)
    engine.generate([list(range(3, 9))], LONG)
    recordings = list(device._recordings.values())
    assert recordings
    for recording in recordings:
        extra = len(recording.watched_calls) - len(recording.calls)
        assert extra == len(engine.runner.caches)
        assert recording._calls_of(recording.step) is recording.calls


def answers(fleet: Fleet, asked: list[list[int]], params: SamplingParams = LONG) -> list[list[int]]:
    return [c.token_ids for c in fleet.generate(asked, params)]


class Later:
    """A thread pool whose jobs are done when somebody waits for them; `now`: at once."""

    def __init__(self, now: bool) -> None:
        self.now = now

    def submit(self, function: Callable[..., None], *args: int) -> Any:
        job: Any = Future()
        job.result = lambda: function(*args)
        if self.now:
            function(*args)
            job.result = lambda: None
        return job


@pytest.mark.parametrize("now", [True, False])
def test_tokens_are_the_same_and_overlap_is_what_had_arrived(now: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(layerwise, "ThreadPoolExecutor", lambda *_: Later(now))
    asked = prompts(4, seed=5)  # as many as there is room for
    fleet = tiny_fleet("splitwise", engine=ONE_CHUNK, **ALL)
    assert answers(fleet, asked) == [c.token_ids for c in tiny_engine().generate(asked, LONG)]
    counters = fleet.policy.counters
    assert counters["layerwise_transfers"] == counters["transfers"] == len(asked)
    blocks = sum(-(-len(p) // 16) for p in asked)
    assert counters["sent_bytes"] == blocks * fleet.instances[0].block_bytes
    assert counters["overlapped_bytes"] == (counters["sent_bytes"] if now else 0)
    fleet.check()


@pytest.mark.parametrize("kind", ["recorded", "native"])
def test_a_real_thread_sends_what_replayed_steps_compute(kind: str) -> None:
    asked = [[(n + 3 * i) % 150 + 3 for i in range(40)] for n in range(6)]
    found = []
    for params in (ALL, {"layerwise_tokens": 1000}):
        fleet = tiny_fleet("splitwise", make=DEVICES[kind], **params)
        found.append(answers(fleet, asked))
        fleet.check()
    assert found[0] == found[1]


def test_short_prompts_go_at_once_and_long_ones_layer_by_layer() -> None:
    fleet = tiny_fleet("splitwise", layerwise_tokens=30)
    asked = [[7] * 10, [8] * 29, [9] * 30, [10] * 50]
    answers(fleet, asked)
    assert fleet.policy.counters["transfers"] == 4
    assert fleet.policy.counters["layerwise_transfers"] == 2


def test_a_prompt_in_several_steps_goes_with_the_last() -> None:
    asked = [[(7 * i) % 140 + 5 for i in range(150)]]
    fleet = tiny_fleet("splitwise", **ALL)  # 64 tokens a step
    assert answers(fleet, asked) == [c.token_ids for c in tiny_engine().generate(asked, LONG)]
    assert fleet.policy.counters["layerwise_transfers"] == 1
    assert fleet.sent_bytes == -(-150 // 16) * fleet.instances[0].block_bytes


def all_free(fleet: Fleet) -> bool:
    blocks = [engine.scheduler.blocks for engine in fleet.engines]
    expected = [engine.scheduler.num_expected for engine in fleet.engines]
    return all(b.num_free == b.num_blocks for b in blocks) and not any(expected)


def test_a_request_that_ends_with_its_first_token_leaves_nothing_behind() -> None:
    asked = prompts(5, seed=2)
    fleet = tiny_fleet("splitwise", **ALL)
    one = SamplingParams(max_tokens=1, ignore_eos=True)
    assert answers(fleet, asked, one) == [c.token_ids for c in tiny_engine().generate(asked, one)]
    assert all_free(fleet)
    assert fleet.sent_bytes > 0, "it was sent, and is counted"
    assert "layerwise_transfers" not in fleet.policy.counters


def test_without_room_the_cache_follows_later() -> None:
    asked = prompts(10, seed=4, longest=60)
    fleet = tiny_fleet("splitwise", make=TimedCpu, wire=slow_wire(), engine={"cache_blocks": 6}, **ALL)
    assert answers(fleet, asked) == [c.token_ids for c in tiny_engine().generate(asked, LONG)]
    counters = fleet.policy.counters
    assert 0 < counters["layerwise_transfers"] < len(asked)
    fleet.check()
    assert all_free(fleet)


def test_what_overlaps_on_a_wire_is_what_was_sent_before_the_step_ended() -> None:
    wire = Wire(Link(bandwidth=100.0, latency=0.0))
    # 10 layers in 10 s; the first can go after one.
    assert wire.send(100, 0, 1, 10.0, Computed(0.0, 10.0, 10)).beside == 90  # all but the last layer
    wire = Wire(Link(bandwidth=100.0, latency=0.0))
    assert wire.send(1800, 0, 1, 10.0, Computed(0.0, 10.0, 10)).beside == 900  # 9 of 18 seconds
    wire = Wire(Link(bandwidth=100.0, latency=0.0))
    assert wire.send(100, 0, 1, 10.0).beside == 0
    wire.send(5000, 0, 1, 0.0)
    assert wire.send(100, 0, 1, 10.0, Computed(0.0, 10.0, 10)).beside == 0  # the link was busy all the time


# --- over processes ---


def filled(engine: Engine, seed: int) -> list[CacheLayer]:
    generator = torch.Generator().manual_seed(seed)
    for cache in engine.runner.caches:
        for tensor in cache.tensors.values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return engine.runner.caches


def test_a_crate_is_unloaded_layer_by_layer_while_it_is_filled(tmp_path: Path) -> None:
    mine, theirs = filled(tiny_engine(), 1), filled(tiny_engine(), 2)
    here, there = [3, 4, 7], [5, 1, 2]
    outlet = CrateOutlet(Crate(tmp_path / "blocks", mine, 3, new=True), here)
    crate = Crate(tmp_path / "blocks", theirs, 3, new=False)
    (tmp_path / "blocks").unlink()
    emptied: list[int] = []
    empty_layer = crate.empty_layer

    def noted(layer: int, table: list[int]) -> None:
        empty_layer(layer, table)
        emptied.append(layer)

    crate.empty_layer = noted  # type: ignore[method-assign]
    unloading = Unloading(crate, there)
    for layer in range(len(mine) - 1):
        outlet.put(layer)
    while len(emptied) < len(mine) - 1:
        pass  # the thread takes them without being asked
    outlet.close()
    outlet.put(len(mine) - 1)
    assert unloading.arrived() == 3 * sum(cache.block_bytes() for cache in mine[:-1])
    for a, b in zip(mine, theirs, strict=True):
        for name, tensor in a.tensors.items():
            assert torch.equal(tensor[here], b.tensors[name][there])


def test_unloading_that_is_stopped_touches_the_blocks_no_more(tmp_path: Path) -> None:
    mine, theirs = filled(tiny_engine(), 1), filled(tiny_engine(), 2)
    outlet = CrateOutlet(Crate(tmp_path / "blocks", mine, 1, new=True), [3])
    unloading = Unloading(Crate(tmp_path / "blocks", theirs, 1, new=False), [5])
    unloading.stop()
    before = theirs[0].tensors["k"][5].clone()
    for layer in range(len(mine)):
        outlet.put(layer)
    assert torch.equal(theirs[0].tensors["k"][5], before)
    assert not unloading._thread.is_alive()
