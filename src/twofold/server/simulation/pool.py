"""The workers of the simulation: started, killed, started again; messages take their time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from twofold.engine.batch import Batch
from twofold.server.messages import Chunk, Command, Embedded, Ended, Event, Failed, Ready, RequestEvent
from twofold.server.simulation.timeline import Pipe, Timeline
from twofold.server.simulation.worker import SimulatedWorker


class Listener(Protocol):
    """Who is told what the workers do."""

    def worker_up(self, worker: SimulatedWorker, ready: Ready) -> None:
        """It takes jobs from now on."""

    def worker_event(self, worker: SimulatedWorker, event: RequestEvent) -> None:
        """It said something about a request, perhaps before it was lost."""

    def worker_lost(self, worker: SimulatedWorker) -> None:
        """It is gone (it may not have been up)."""

    def inspect(self, worker: SimulatedWorker, batch: Batch) -> None:
        """It is about to run `batch`."""


@dataclass(slots=True)
class _Place:
    """A place for a worker: who is there now, what goes to it and comes from it, how many have been there."""

    worker: SimulatedWorker | None = None
    commands: Pipe[Command] | None = None
    events: Pipe[Event] | None = None
    starts: int = 0


class SimulatedPool:
    """`count` workers of equal settings. delay: the longest that a message takes; restart: the longest until
    another worker takes the place of a lost one."""

    def __init__(
        self,
        timeline: Timeline,
        rng: Random,
        listener: Listener,
        *,
        count: int,
        plan: int,
        delay: float,
        restart: float,
    ) -> None:
        self._timeline = timeline
        self._rng = rng
        self._listener = listener
        self._plan = plan
        self._delay = delay
        self._restart = restart
        self._places = [_Place() for _ in range(count)]
        for number in range(count):
            self._start(number)

    @property
    def workers(self) -> list[SimulatedWorker]:
        """Those that live, up or not yet."""
        return [place.worker for place in self._places if place.worker is not None and not place.worker.dead]

    def send(self, name: str, command: Command) -> None:
        """Send a command; lost where the worker has died."""
        for place in self._places:
            if place.worker is not None and place.worker.name == name:
                assert place.commands is not None
                place.commands.send(command)

    def is_quiet(self, worker: SimulatedWorker) -> bool:
        """Whether it lives, has nothing to do, and nothing is under way to it or from it."""
        place = next(place for place in self._places if place.worker is worker)
        pipes = (place.commands, place.events)
        return (
            not worker.dead
            and worker.idle
            and not any(pipe.num_under_way for pipe in pipes if pipe is not None)
        )

    def kill(self, worker: SimulatedWorker) -> None:
        """End a worker at once. What it has sent still arrives, before or after its loss is noticed."""
        place = next(place for place in self._places if place.worker is worker)
        assert place.commands is not None
        worker.dead = place.commands.broken = True
        self._timeline.after(self._rng.uniform(0, 2 * self._delay), self._notice, place, worker)

    def _start(self, number: int) -> None:
        place = self._places[number]
        place.starts += 1
        name = f"{number}.{place.starts}"
        events: Pipe[Event] = Pipe(  # what is in it outlives the worker
            self._timeline, self._rng, self._delay, lambda event: self._receive(worker, event)
        )
        worker = place.worker = SimulatedWorker(
            name,
            self._plan,
            self._rng,
            self._timeline,
            post=events.send,
            inspect=lambda batch: self._listener.inspect(worker, batch),
            died=self.kill,
        )
        place.events = events
        place.commands = Pipe(self._timeline, self._rng, self._delay, worker.arrive)
        self._timeline.after(self._rng.uniform(0, self._restart), self._loaded, worker, events.send)

    def _loaded(self, worker: SimulatedWorker, post: Callable[[Event], None]) -> None:
        if not worker.dead:
            post(worker.ready)

    def _receive(self, worker: SimulatedWorker, event: Event) -> None:
        if isinstance(event, Ready):
            if any(place.worker is worker for place in self._places):  # its loss has not been noticed
                self._listener.worker_up(worker, event)
        else:
            assert isinstance(event, Chunk | Ended | Embedded | Failed)
            self._listener.worker_event(worker, event)

    def _notice(self, place: _Place, worker: SimulatedWorker) -> None:
        place.worker = None
        self._listener.worker_lost(worker)
        self._timeline.after(self._rng.uniform(0, self._restart), self._start, self._places.index(place))
