"""Deterministic simulation of fleets: the real fleet, migrations, schedulers and block managers under virtual
time, with requests that move at random, little memory and cancellations, against a model that notices when
its cache is wrong (`engine.simulated_model`).

Everything follows from the seed.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from random import Random
from types import SimpleNamespace
from typing import Any

from twofold.devices.clock import VirtualClock
from twofold.devices.links import Link
from twofold.engine.arrivals import Prompt
from twofold.engine.batch import Batch
from twofold.engine.blocks import BlockManager
from twofold.engine.policy import Mixed
from twofold.engine.request import Request, SamplingParams
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.engine.simulate import play_episodes
from twofold.engine.simulated_model import SimulatedModel, expected_output
from twofold.engine.simulated_swapping import random_swapping, restless
from twofold.fleet.fleet import Fleet
from twofold.fleet.instance import Instance
from twofold.fleet.policy import Stages
from twofold.fleet.wanderers import Wanderers
from twofold.fleet.wire import Wire

CHECK_EVERY = 16


@dataclass(slots=True)
class FleetCounts:
    """What was played: requests by the way they ended, moves that arrived and were given up, caches that went
    with their prompts, preemptions; digest: of all outputs, equal for equal seeds."""

    requests: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    arrived: int = 0
    given_up: int = 0
    shipped: int = 0
    preempted: int = 0
    digest: int = 0

    def add(self, other: FleetCounts) -> None:
        """Add the counts of an episode."""
        for name in (f.name for f in fields(self) if f.name != "digest"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.digest = zlib.crc32(other.digest.to_bytes(8, "little"), self.digest)


class SimulatedCache:
    """The memory of a simulated model, as an instance copies it."""

    def __init__(self, model: SimulatedModel) -> None:
        self.blocks: Any = model

    def block_bytes(self) -> int:
        """A block counts as one."""
        return 1

    def copy_blocks(self, pairs: Sequence[tuple[int, int]], other: Mapping[Any, Any], *, out: bool) -> None:
        """Copy blocks to `other`, the memory of another model."""
        assert out, "blocks are copied out of the source"
        mine: SimulatedModel = self.blocks
        for here, there in pairs:
            other.write(there, mine.read(here))  # type: ignore[attr-defined]


class SimulatedEngine:
    """What a fleet needs of an engine, around a simulated model: a step takes random time."""

    def __init__(self, scheduler: Scheduler, clock: VirtualClock, rng: Random) -> None:
        self.scheduler, self.clock, self.rng = scheduler, clock, rng
        self.model = SimulatedModel(scheduler.blocks)
        self.device = SimpleNamespace(real=True)
        rank = SimpleNamespace(hold=lambda blocks: None)
        self.runner = SimpleNamespace(
            block_bytes=1, caches=[SimulatedCache(self.model)], rank=rank, sending=None
        )
        self.unfiltered: tuple[Request, ...] = ()
        self.newest = None
        self._flight: tuple[float, Batch, list[list[int]]] | None = None
        self._ended: list[Request] = []

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self.scheduler.has_work

    @property
    def is_busy(self) -> bool:
        """Whether a step is under way."""
        return self._flight is not None

    def add(self, prompt: Sequence[int], params: SamplingParams, **rest: Any) -> None:
        """Queue a request."""
        rest.pop("record_times")
        self.scheduler.add(Request(rest.pop("id"), prompt, params, **rest))

    def land(self) -> None:
        """Take in a step that is done."""
        if self._flight is not None and self._flight[0] <= self.clock.now():
            _, batch, sampled = self._flight
            self._flight = None
            self._ended += self.scheduler.update(batch, sampled, self.clock.now())

    def launch(self) -> float | None:
        """Begin a step."""
        if self._flight is None:
            batch = self.scheduler.schedule(self.clock.now())
            self._ended += batch.finished
            if batch.is_empty:
                return None
            beside = self.scheduler.blocks.swapping.overlapped
            if not beside:
                self.model.copy_blocks(batch)
            sending = self.runner.sending
            written = None if sending is None else sending.begin(batch)
            sampled = [self.model.execute(entry) for entry in batch.entries]
            if written is not None:
                if self.rng.random() < 0.5:  # otherwise it is sent when the step ends
                    written(self.runner.caches[0])
                sending.end()
            if beside:
                self.model.copy_blocks(batch)
            seconds = 0.01 * (1 + batch.num_tokens / 64) * self.rng.uniform(0.5, 1.5)
            self._flight = self.clock.now() + seconds, batch, sampled
        return self._flight[0]

    def take_ended(self) -> list[Request]:
        """Requests that have ended."""
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, id: str | int) -> None:
        """End a request at its user's wish."""
        request = self.scheduler.requests[id]
        if self.scheduler.cancel(id, self.clock.now()) and request.is_finished:
            self._ended.append(request)

    def detach(self, request: Request) -> tuple[list[int], object]:
        """Let a request go, with what stands for its output."""
        return self.scheduler.detach(request), request.output_ids

    def attach(self, request: Request, table: list[int], output: object) -> None:
        """Go on with it."""
        del output
        self.scheduler.attach(request, table)


def _ids(prompt: Prompt) -> Sequence[int]:
    assert isinstance(prompt, Sequence), prompt
    assert not isinstance(prompt, str), prompt
    return prompt


class FleetEpisode:
    """A fleet with random settings, from the first arrival until the last request has ended."""

    def __init__(self, rng: Random, num_requests: int, faults: bool) -> None:
        self.rng, self.faults = rng, faults
        self.counts = FleetCounts(requests=num_requests)
        self.step = 0
        self.clock = VirtualClock()
        block_size = rng.choice([1, 4, 16])
        count = rng.randint(2, 4)
        self.engines = [SimulatedEngine(self._scheduler(block_size), self.clock, rng) for _ in range(count)]
        stages = rng.choice([None, Stages(rng.randint(1, 4), rng.randint(1, 3))])
        rate, onward = rng.choice([0.02, 0.2]), rng.choice([0.0, 0.5, 1.0])
        self.policy = Wanderers(count, rng.randrange(1 << 30), stages, rate, onward)
        instances: list[Any] = [Instance(n, engine) for n, engine in enumerate(self.engines)]  # type: ignore[arg-type]
        wire = Wire(Link(rng.choice([50.0, 500.0, 1e6]), 1e-4))
        turns = rng.random() < 0.3
        self.fleet = Fleet(instances, self.policy, wire, self.clock, _ids, taking_turns=turns)
        self.expected: dict[str, list[int]] = {}

    def _scheduler(self, block_size: int) -> Scheduler:
        rng = self.rng
        blocks = BlockManager(
            max(2, rng.randint(64, 160) // block_size),
            block_size,
            num_host_blocks=rng.choice([0, 40]),
            prefix_caching=rng.random() < 0.5,
            swapping=random_swapping(rng),
        )
        seats = rng.choice([2, 4, 8])
        config = SchedulerConfig(
            max_num_seqs=seats,
            max_num_batched_tokens=seats + rng.choice([8, 64]),
            preemption="swap" if blocks.num_host_blocks else "recompute",
        )
        return Scheduler(config, blocks, restless(rng) or Mixed())

    def play(self) -> FleetCounts:
        """Run it and return its counts. Any broken invariant raises."""
        rng, fleet = self.rng, self.fleet
        left = self.counts.requests
        while left or fleet.has_work:
            while left and rng.random() < 0.3:
                left -= 1
                prompt = rng.choices(range(3), k=rng.randint(1, 40))
                params = SamplingParams(max_tokens=rng.randint(1, 24), ignore_eos=True)
                id = fleet.add(prompt, params)
                self.expected[id] = expected_output(prompt, params.max_tokens)
            if self.faults and rng.random() < 0.01:
                living = [(e, id) for e in self.engines for id in e.scheduler.requests]
                if living:
                    engine, chosen = rng.choice(living)
                    engine.cancel(chosen)
            moment = fleet.advance()
            for _, request in fleet.take_ended():
                self._leave(request)
            self.step += 1
            if self.step % CHECK_EVERY == 0:
                fleet.check()
            self.clock.wait_until(min(moment, self.clock.now() + 0.05))
        fleet.check()
        counts = self.counts
        assert sum(counts.ended.values()) == counts.requests, f"requests were lost: {counts.ended}"
        for engine in self.engines:
            blocks = engine.scheduler.blocks
            blocks.parting()  # what the last to end leaves in host memory goes with the next step
            blocks.settle()
            assert blocks.num_free == blocks.num_blocks, "blocks were lost"
            assert not engine.scheduler.num_expected, "a place is kept for nobody"
            counts.preempted += engine.scheduler.num_preempted
        counts.arrived, counts.given_up = (self.policy.counters[n] for n in ("arrived", "given_up"))
        counts.shipped = self.policy.counters.get("layerwise_transfers", 0)
        return counts

    def _leave(self, request: Request) -> None:
        """A request ends once, with the output that it would have had alone."""
        output, expected = request.output_ids, self.expected.pop(str(request.id))
        assert output == expected[: len(output)], f"{request!r} gave {output}, alone it gives {expected}"
        assert request.finish_reason is not None
        if request.finish_reason == "length":
            assert output == expected, f"{request!r} ended early"
        self.counts.ended[request.finish_reason] += 1
        self.counts.digest = zlib.crc32(repr((request.id, output)).encode(), self.counts.digest)


def simulate_fleets(
    num_requests: int = 10_000, *, seed: int = 0, faults: bool = True, episode: int | None = None
) -> FleetCounts:
    """Play `num_requests` requests in episodes of 500, each on a fleet of its own. faults: requests are
    cancelled at times. Raises `engine.simulate.SimulationError`."""

    def make(rng: Random, size: int) -> FleetEpisode:
        return FleetEpisode(rng, size, faults)

    return play_episodes(make, FleetCounts(), num_requests, seed, faults, None, episode)
