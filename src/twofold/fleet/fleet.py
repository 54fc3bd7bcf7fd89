"""Fleet: several engine instances under one clock. Requests come to one of them, and may go on at another.

    arrivals ─▶ policy.dispatch ─▶ an instance ─▶ … steps … ─▶ policy.moves ─▶ Migration ─▶ another instance

The loop is the same on real and modelled devices. Between two events of a virtual clock nothing happens; on a
real device a step is computed when it is launched, so instances in one process take turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from twofold.devices.clock import Clock
from twofold.engine.accounts import Accounts, TechniqueAccounts
from twofold.engine.active import check_reached
from twofold.engine.arrivals import Arrivals, Prompt
from twofold.engine.engine import Engine
from twofold.engine.host import Host
from twofold.engine.output import Completion
from twofold.engine.request import Request, SamplingParams
from twofold.fleet.instance import Instance
from twofold.fleet.migration import Migration
from twofold.fleet.policy import Arrival, FleetPolicy
from twofold.fleet.wire import Wire
from twofold.techniques.base import Technique


class Fleet:
    """Runs requests on `instances`, which share one clock.

    wire: what caches go over. technique: the one whose policy it is (None: no technique's). taking_turns: the
    instances share one device, which executes one step at a time. downtimes: seconds for which each request
    stood still that moved; sent_bytes: of caches, all ranks of an instance together. Both are added to the
    policy's counters, as `downtime_us` and `sent_bytes`; so are `layerwise_transfers`, caches that went along
    with their prompts, and `overlapped_bytes`, what was there of them when the prompts' last steps ended.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        policy: FleetPolicy,
        wire: Wire,
        clock: Clock,
        encode: Callable[[Prompt], Sequence[int] | int],
        *,
        host: Host | None = None,
        ranks: int = 1,
        taking_turns: bool = False,
        technique: Technique | None = None,
    ) -> None:
        self.instances = list(instances)
        self.policy = policy
        self.wire = wire
        self.clock = clock
        self.taking_turns = taking_turns
        self.downtimes: list[float] = []
        self.sent_bytes = 0
        self._encode, self._host, self._ranks = encode, host, ranks
        self._technique = technique
        self._migrations: dict[str | int, Migration] = {}
        self._next_id = 0
        self._turn = 0
        self._busy_until = 0.0

    @property
    def engines(self) -> list[Engine]:
        """The engines of the instances, where these are in this process."""
        return [instance.engine for instance in self.instances]

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._migrations) or any(instance.has_work for instance in self.instances)

    # --- requests ---

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        arrival_time: float | None = None,
        record_times: bool = False,
    ) -> str:
        """Queue a request at the instance that the policy chooses; ValueError as `Engine.add`. Returns its
        id."""
        id, self._next_id = f"request-{self._next_id}", self._next_id + 1
        ids = self._encode(prompt)
        arrival = Arrival(id, ids if isinstance(ids, int) else len(ids), priority)
        number = self.policy.dispatch(arrival, self.instances)
        onward = self.policy.goes_on(id)
        if onward is not None:
            self.instances[number].bind(id, self.instances[onward.target], onward.layerwise_from)
        self.instances[number].add(
            ids,
            params,
            id=id,
            priority=priority,
            arrival_time=self.clock.now() if arrival_time is None else arrival_time,
            record_times=record_times,
        )
        return id

    def play(
        self,
        items: Iterable[tuple[float, Prompt, SamplingParams]],
        *,
        concurrency: int | None = None,
        on_end: Callable[[Request], None] | None = None,
        record_times: bool = False,
        priorities: Sequence[int] = (),
    ) -> list[Request]:
        """Run a workload, as `Engine.play` does. priorities: of the requests, in order (none: all 0)."""
        arrivals = Arrivals(items, self.clock.now(), concurrency, self._host)
        done: list[Request] = []
        ranks = iter(priorities)
        while arrivals.pending or self.has_work:
            now = self.clock.now()
            for sent, prompt, params in arrivals.seen(now, now):
                rank = next(ranks, 0)
                self.add(prompt, params, priority=rank, arrival_time=sent, record_times=record_times)
            moment = self.advance()
            for _, request in self.take_ended():
                arrivals.ended(request, self.clock.now())
                done.append(request)
                if on_end is not None:
                    on_end(request)
            moment = min(moment, arrivals.next_time())
            if moment < math.inf:
                self.clock.wait_until(moment)
            else:
                assert not self.has_work, "requests wait, and nothing goes on"
        self.check()
        return done

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | None = None) -> list[Completion]:
        """Complete all `prompts`; results in their order."""
        ids = [self.add(prompt, params) for prompt in prompts]
        found: dict[str | int, Completion] = {}
        while len(found) < len(ids):
            moment = self.advance()
            for instance, request in self.take_ended():
                found[request.id] = instance.completion(request.id)
            if moment < math.inf:
                self.clock.wait_until(moment)
        return [found[id] for id in ids]

    # --- the loop ---

    def advance(self) -> float:
        """Do all that can be done now, at every instance. Returns the moment at which there is something to
        do again; infinite where nothing goes on."""
        for instance in self.instances:
            instance.land()
        self._migrate()
        moment = self._launch()
        return min([moment, *map(self._due, self._migrations.values())])

    def _due(self, migration: Migration) -> float:
        """When a migration goes on; infinite where a step decides that is going on and tells when it ends."""
        if migration.due > -math.inf:
            return migration.due
        # The last step of a process may have ended, and been heard of, after it was asked.
        return math.inf if migration.source.has_work else self.clock.now()

    def take_ended(self) -> list[tuple[Instance, Request]]:
        """Requests that have ended and were not taken before, and where each did."""
        ended = [(instance, request) for instance in self.instances for request in instance.take_ended()]
        for instance, request in ended:
            shipment = instance.take_shipment(request.id)
            if shipment is not None:  # its first token was its last
                shipment.target.release(request.id)
                self._count_sent(shipment.nbytes, instance)
            self.policy.ended(request.id)
        return ended

    def _launch(self) -> float:
        """Let every instance begin its next step, in turn where they share a device."""
        moments = [math.inf]
        count = len(self.instances)
        for number in [(self._turn + i) % count for i in range(count)]:
            instance = self.instances[number]
            if not instance.has_work:
                continue
            if self.taking_turns and self._busy_until > self.clock.now() and not instance.is_busy:
                moments.append(self._busy_until)
                continue
            moment = instance.launch()
            if moment is None:  # an empty step may have let somebody in
                moment = instance.launch()
            if moment is None:
                continue
            moments.append(moment)
            if self.taking_turns:
                self._busy_until = max(self._busy_until, moment)
                self._turn = (number + 1) % count
        return min(moments)

    def _migrate(self) -> None:
        now = self.clock.now()
        policy = self.policy
        for move in policy.moves(self.instances, now):
            if move.id not in self._migrations:
                source, target = self.instances[move.source], self.instances[move.target]
                self._migrations[move.id] = Migration(move, source, target, self.wire, policy.stages, now)
        for id, migration in list(self._migrations.items()):
            migration.advance(self.clock.now())
            if migration.stopped:  # what is there already need not wait for others to be asked
                migration.advance(self.clock.now())
            if migration.arrived is not None:
                del self._migrations[id]
                self._account(migration)
                policy.moved(migration.move, migration.arrived)

    def _account(self, migration: Migration) -> None:
        self._count_sent(migration.nbytes, migration.source)
        if migration.arrived:
            self.downtimes.append(migration.downtime)
            self._count("downtime_us", round(migration.downtime * 1e6))
        if migration.layerwise:
            self._count("layerwise_transfers", 1)
            self._count("overlapped_bytes", migration.overlapped * self._ranks)

    def _count_sent(self, nbytes: int, source: Instance) -> None:
        nbytes *= self._ranks
        self.sent_bytes += nbytes
        self._count("sent_bytes", nbytes)
        if self.wire.joules:
            totals = source.engine.totals
            totals.joules = None if totals.joules is None else totals.joules + nbytes * self.wire.joules

    def _count(self, name: str, number: int) -> None:
        counters = self.policy.counters
        counters[name] = counters.get(name, 0) + number

    # --- what jobs ask of an engine ---

    def check(self) -> None:
        """IntegrityError where blocks or requests of any instance do not add up."""
        for instance in self.instances:
            instance.check()

    def accounts(self) -> list[Accounts]:
        """What the instances have to say of themselves; the technique whose policy this is comes last among
        the techniques of each."""
        found = [instance.accounts() for instance in self.instances]
        if self._technique is None:
            return found
        info = self._technique.info
        ours = TechniqueAccounts(
            info.name, self._technique.params, self.policy.counters, dict(info.behaviour), {}, shared=True
        )
        derived = {**found[0].derived, "instances": len(found)}
        return [replace(each, techniques=[*each.techniques, ours], derived=derived) for each in found]

    def check_techniques(self) -> None:
        """NotReachedError where a technique is on and nothing went through it, at any instance."""
        for alike in zip(*(each.techniques for each in self.accounts()), strict=True):
            counters = {name: sum(each.counters[name] for each in alike) for name in alike[0].counters}
            check_reached(alike[0].name, counters)

    def score(self, token_ids: Sequence[int], num_prompt: int = 1) -> torch.Tensor:
        """Logits, as `Engine.score`: those of the first instance, which are those of all."""
        return self.instances[0].score(token_ids, num_prompt)

    def forget_cached(self) -> None:
        """Forget the beginnings of prompts that are kept for later ones."""
        for instance in self.instances:
            instance.forget_cached()

    def reset_totals(self) -> None:
        """Forget what was done so far."""
        for instance in self.instances:
            instance.reset_totals()
        self.downtimes = []
        self.sent_bytes = 0
        self.policy.counters.update(dict.fromkeys(self.policy.counters, 0))

    def close(self) -> None:
        """Close every instance."""
        for instance in self.instances:
            instance.close()
