"""Llumnix's policy: virtual usage, which turns every reason to move requests into one of load balance.

The virtual usage of a request is the memory that it is treated as using: what it holds; for the first in a
queue, what it waits for, so that others make room on one instance (de-fragmentation); for one of high
priority, also a headroom, so that it is left alone; on an instance that is to be switched off, infinitely
much. The freeness of an instance is the number of steps for which its requests could grow:

F = (M - Σ V) / B M: memory, Σ V: virtual usage, B: running requests

Requests are dispatched to the freest instance, and move from the least free ones to the freest. Source:
Llumnix (arXiv:2406.03243), section 4.4 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from twofold.fleet.load import Load, Resident
from twofold.fleet.policy import Arrival, Member, Move, Stages


def virtual_usage(load: Load, headroom: int) -> float:
    """Tokens of cache that the requests of an instance count for. headroom: of requests of high priority
    (below 0), shared by those that run."""
    used = (load.num_blocks - load.free_blocks) * load.block_size
    queued = 0 if load.head is None else load.head.blocks * load.block_size
    important = any(resident.priority < 0 for resident in load.running)
    return used + queued + (headroom if important else 0)


def freeness(load: Load, headroom: int) -> float:
    """Steps for which the running requests could go on; infinite where nothing runs or waits, negative where
    memory is short."""
    free = load.num_blocks * load.block_size - virtual_usage(load, headroom)
    batch = len(load.running) + (load.head is not None)
    return free / batch if batch else math.inf


def freeness_with_queue(load: Load, headroom: int) -> float:
    """The same once the whole queue runs: what a new request would find."""
    head = 0 if load.head is None else load.head.blocks
    behind = (load.waiting_blocks - head) * load.block_size
    free = load.num_blocks * load.block_size - virtual_usage(load, headroom) - behind
    batch = len(load.running) + load.num_waiting
    return free / batch if batch else math.inf


class Freeness:
    """A FleetPolicy over `instances` equal instances.

    headroom: tokens kept free beside requests of high priority; migrate_out, migrate_in: requests move from
    instances below the one freeness to instances above the other; interval: seconds between two looks at
    what is to move; scaling: (low, high), freeness on average below which an instance is added and above
    which one is drained (None: all are always on).

    counters: dispatches, migrations begun, arrived and given up, and instances switched on and off.
    instance_seconds: for which instances were on.
    """

    name = "llumnix"

    def __init__(
        self,
        instances: int,
        stages: Stages,
        *,
        headroom: int,
        migrate_out: float,
        migrate_in: float,
        interval: float,
        scaling: tuple[float, float] | None,
    ) -> None:
        self.devices: Sequence[str | None] = [None] * instances
        self.stages: Stages | None = stages
        self.headroom = headroom
        self.migrate_out, self.migrate_in = migrate_out, migrate_in
        self.interval = interval
        self.scaling = scaling
        self.instance_seconds = 0.0
        self._off = set(range(1, instances)) if scaling is not None else set[int]()
        self._draining: set[int] = set()
        self._moving: dict[str | int, Move] = {}
        self._looked = 0.0
        self.counters = {
            "dispatched": 0,
            "migrations": 0,
            "migrated": 0,
            "given_up": 0,
            "switched_on": 0,
            "switched_off": 0,
        }

    def dispatch(self, request: Arrival, members: Sequence[Member]) -> int:
        """The freest instance, once its queue runs."""
        del request
        self.counters["dispatched"] += 1
        active = [n for n in range(len(members)) if n not in self._off and n not in self._draining]
        return max(active, key=lambda n: (freeness_with_queue(members[n].load, self.headroom), -n))

    def goes_on(self, id: str | int) -> None:
        """Nobody knows when requests come."""

    def moves(self, members: Sequence[Member], now: float) -> list[Move]:
        """Pairs of instances, the least free with the freest, and a request of each that is to move."""
        if now < self._looked + self.interval:
            return []
        loads = [member.load for member in members]
        self.instance_seconds += (now - self._looked) * (len(loads) - len(self._off))
        self._looked = now
        if self.scaling is not None:
            self._scale(loads, *self.scaling)
        free = {n: self._freeness(n, loads[n]) for n in range(len(loads)) if n not in self._off}
        busy = {end for move in self._moving.values() for end in (move.source, move.target)}
        sources = [n for n in sorted(free, key=free.__getitem__) if free[n] < self.migrate_out]
        targets = [n for n in sorted(free, key=free.__getitem__, reverse=True) if free[n] > self.migrate_in]
        found = []
        for source, target in zip(
            [n for n in sources if n not in busy], [n for n in targets if n not in busy], strict=False
        ):
            chosen = _to_move(loads[source], loads[target])
            if source != target and chosen is not None:
                move = Move(chosen.id, source, target)
                self._moving[chosen.id] = move
                self.counters["migrations"] += 1
                found.append(move)
        return found

    def _freeness(self, number: int, load: Load) -> float:
        """Minus infinity on an instance that is drained, so that all of its requests move away."""
        return -math.inf if number in self._draining else freeness(load, self.headroom)

    def moved(self, move: Move, arrived: bool) -> None:
        """Count the end of `move`."""
        self._moving.pop(move.id, None)
        self.counters["migrated" if arrived else "given_up"] += 1

    def ended(self, id: str | int) -> None:
        """Nothing is kept of a request that does not move."""

    def _scale(self, loads: Sequence[Load], low: float, high: float) -> None:
        """Switch an instance on where freeness is short on average; begin to drain the one with fewest
        requests where there is plenty; switch drained ones off."""
        for number in list(self._draining):
            if not loads[number].running and not loads[number].num_waiting:
                self._draining.discard(number)
                self._off.add(number)
                self.counters["switched_off"] += 1
        active = [n for n in range(len(loads)) if n not in self._off and n not in self._draining]
        # An idle instance could go on for ever; for an average it counts as far as its memory goes.
        most = [float(load.num_blocks * load.block_size) for load in loads]
        mean = sum(min(freeness(loads[n], self.headroom), most[n]) for n in active) / len(active)
        if mean < low and (self._draining or self._off):
            number = min(self._draining or self._off)
            self._draining.discard(number)
            self._off.discard(number)
            self.counters["switched_on"] += 1
        elif mean > high and len(active) > 1:
            self._draining.add(min(active, key=lambda n: (len(loads[n].running), -n)))


def _to_move(source: Load, target: Load) -> Resident | None:
    """The request that moves: of the lowest priority and, among those, the shortest; None where none fits."""
    room = target.free_blocks if target.seats > 0 else 0
    fitting = [r for r in source.decoding if r.blocks < room]
    return min(fitting, key=lambda r: (-r.priority, r.tokens), default=None)
