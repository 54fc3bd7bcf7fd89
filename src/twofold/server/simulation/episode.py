"""Episode: one server with random settings, played until its last request has ended and its last worker is
idle, every invariant checked on the way."""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from random import Random

from twofold.engine.batch import Batch
from twofold.engine.integrity import check
from twofold.server.dispatcher import LONGEST_RETRY, SHORTEST_RETRY, Dispatcher, Refused
from twofold.server.messages import (
    Cancel,
    Chunk,
    Command,
    Embed,
    Ended,
    Failed,
    Generate,
    Ready,
    RequestEvent,
)
from twofold.server.routing import PrefixAffinity
from twofold.server.simulation.clients import Client, Requests
from twofold.server.simulation.faults import Faults
from twofold.server.simulation.pool import SimulatedPool
from twofold.server.simulation.result import LifecycleResult
from twofold.server.simulation.timeline import Timeline
from twofold.server.simulation.worker import SimulatedWorker

LATE = 0.005
"""Seconds that a timer may be late."""
SETTLED = 60.0
"""Seconds after the last deadline at which everything must be over: the slowest step takes far less."""


class Episode:
    """A dispatcher with its clients and workers, from the first arrival until nothing is left to do."""

    def __init__(self, rng: Random, num_requests: int, *, seed: int, faults: bool) -> None:
        self.rng = rng
        self.result = LifecycleResult(seed, requests=num_requests, episodes=1)
        self.timeline = Timeline()
        self.delay = rng.choice((0.0005, 0.005, 0.05))
        self.timeout = rng.choice((0.3, 2.0, 10.0)) if faults else 1e3
        self.max_queue = rng.choice((0, 8, 64, 256))
        self.router = PrefixAffinity()
        # Clients that wait, in order of arrival; workers of those that went before their end, and when.
        self.clients: OrderedDict[str, Client] = OrderedDict()
        self.gone: dict[str, tuple[SimulatedWorker, float]] = {}
        self.up: dict[SimulatedWorker, Ready] = {}
        self.pool = SimulatedPool(
            self.timeline,
            rng,
            self,
            count=rng.choice((1, 2, 2, 3, 4)),
            plan=rng.getrandbits(32),
            delay=self.delay,
            restart=rng.choice((0.01, 0.3)),
        )
        self.dispatcher = Dispatcher(
            max_queue=self.max_queue,
            timeout=self.timeout,
            router=self.router,
            send=self.send,
            deliver=self.deliver,
        )
        self.requests = Requests(rng)
        self.gap = rng.choice((0.004, 0.01, 0.04))
        self.leaving = rng.choice((0.0, 0.1, 0.5)) if faults else 0.0
        self.patience = rng.choice((0.02, 0.2))
        self.num_arrived = 0
        self.timer = inf
        self.drained_at = inf
        self.settled_at = inf
        self.timeline.at(0.0, self.arrive)
        if faults:
            span = num_requests * self.gap
            Faults(self.timeline, rng, self.pool, self.result.faults, span / rng.choice((2, 20, 60)), self)
            if rng.random() < 0.25:
                self.timeline.after(rng.uniform(0.5, 1.0) * span, self.drain)

    @property
    def step(self) -> int:
        """Events so far."""
        return self.timeline.num_events

    @property
    def over(self) -> bool:
        """Whether all requests have come and none is left."""
        return self.num_arrived == self.result.requests and not self.dispatcher.num_unfinished

    def play(self) -> LifecycleResult:
        """Run it and return its counts. Any broken invariant raises."""
        while self.timeline.step():
            self.check()
        self.check_end()
        self.result.events = self.step
        return self.result

    # Clients

    def arrive(self) -> None:
        """A request comes, and a moment later the next."""
        rng, result, now = self.rng, self.result, self.timeline.now
        id = str(self.num_arrived)
        self.num_arrived += 1
        room = self.max_queue + sum(ready.max_num_seqs for ready in self.up.values())
        room -= len(self.clients) + len(self.gone)
        client = self.clients[id] = self.requests.next(id, now + self.timeout)
        try:
            self.dispatcher.submit(client.job, now)
        except Refused as refused:
            del self.clients[id]
            self.check_refused(refused, room)
        else:
            assert room > 0, "a request was accepted beyond the bound"
            assert self.drained_at == inf, "a request was accepted after the end"
            assert client.num_sent == bool(self.up), f"{client.job} was sent {client.num_sent} times"
            if rng.random() < self.leaving:
                self.timeline.after(rng.expovariate(1 / self.patience), self.leave, id)
            if self.timer == inf:
                self.set_timer()
        if self.num_arrived < result.requests:
            self.timeline.after(rng.expovariate(1 / self.gap), self.arrive)
        else:
            self.settled_at = now + self.timeout + SETTLED

    def check_refused(self, refused: Refused, room: int) -> None:
        """Only for a true reason, and with a time that makes sense."""
        assert (refused.kind == "draining") == (self.drained_at < inf), f"refused: {refused}"
        if refused.kind != "draining":
            assert room <= 0, f"refused without need: {refused}"
            assert (refused.kind == "unavailable") == (not self.up), f"refused: {refused.kind}"
            assert SHORTEST_RETRY <= refused.retry_after <= LONGEST_RETRY, refused.retry_after
        self.result.count("-", f"refused {refused.kind}", self.timeline.now)

    def leave(self, id: str) -> None:
        """A client goes, perhaps when it has its answer."""
        client = self.clients.pop(id, None)
        if client is not None:
            self.result.faults["client left"] += 1
            self.forsake(id, client)
            self.result.count(id, "left", self.timeline.now)
        self.dispatcher.leave(id, self.timeline.now)

    def forsake(self, id: str, client: Client) -> None:
        """Nobody waits for the answer any more: its worker, if it has one, has to be told at once."""
        if client.worker is not None:
            self.gone[id] = (client.worker, self.timeline.now)

    # The dispatcher's callbacks

    def send(self, name: str, command: Command) -> None:
        """The dispatcher sends a command."""
        worker = next((worker for worker in self.up if worker.name == name), None)
        assert worker is not None, f"{command} was sent to {name}, which is not up"
        if isinstance(command, Generate | Embed):
            client = self.clients.get(command.id)
            assert client is not None, f"{command} was sent for nobody"
            assert client.worker is None, f"{command} was sent to two workers"
            assert not client.num_tokens, f"{command} was sent again although its client has begun to read"
            client.num_sent += 1
            self.result.resent += client.num_sent == 2
            assert client.num_sent <= 2, f"{command} was sent {client.num_sent} times"
            client.worker = worker
        else:
            assert isinstance(command, Cancel), f"{command} was sent"
        self.pool.send(name, command)

    def deliver(self, id: str, event: RequestEvent) -> None:
        """The dispatcher delivers an event: check that it had to come, and what it says."""
        client = self.clients.get(id)
        assert client is not None, f"{event} was delivered to nobody"
        assert event.id == id, f"{event} was delivered to {id}"
        if isinstance(event, Failed) and event.kind in ("lost", "timeout", "draining"):
            if event.kind == "lost":
                assert client.worker is None, f"{event}, but worker {client.worker} is there"
                assert client.num_tokens or client.num_sent == 2, (
                    f"{event}, but it could have been sent again"
                )
            else:
                due = client.deadline if event.kind == "timeout" else self.drained_at
                assert self.timeline.now >= due, f"{event} came early: it is due at {due}"
                self.forsake(id, client)
            end: str | None = event.kind
        else:
            end = client.receive(event)
        if end is not None:
            del self.clients[id]
            self.result.tokens += client.num_tokens
            self.result.cached_tokens += event.cached_tokens if isinstance(event, Ended) else 0
            self.result.count(id, end, self.timeline.now)

    # The pool's callbacks

    def worker_up(self, worker: SimulatedWorker, ready: Ready) -> None:
        """See `pool.Listener`. Whoever waits for a worker must be sent."""
        self.up[worker] = ready
        self.result.workers += 1
        self.dispatcher.worker_up(worker.name, ready, self.timeline.now)
        self.check_sent()

    def worker_event(self, worker: SimulatedWorker, event: RequestEvent) -> None:
        """See `pool.Listener`."""
        if worker not in self.up:
            self.result.stale += 1
        elif event.id in self.gone and not isinstance(event, Chunk):
            del self.gone[event.id]
        self.dispatcher.event(worker.name, event, self.timeline.now)
        if worker in self.up and self.pool.is_quiet(worker):
            jobs = self.dispatcher.workers[worker.name].num_jobs
            assert not jobs, f"worker {worker.name} is idle and has not answered {jobs} jobs"

    def worker_lost(self, worker: SimulatedWorker) -> None:
        """See `pool.Listener`. Its jobs must be sent elsewhere or fail."""
        self.up.pop(worker, None)
        self.result.steps += worker.scheduler.num_steps
        self.result.faults["worker gave up"] += worker.unsound
        for client in self.clients.values():
            if client.worker is worker:
                client.worker = None
        self.gone = {id: (holder, since) for id, (holder, since) in self.gone.items() if holder is not worker}
        self.dispatcher.worker_lost(worker.name, self.timeline.now)
        self.check_sent()

    def inspect(self, worker: SimulatedWorker, batch: Batch) -> None:
        """See `pool.Listener`. It must not work for nobody."""
        now = self.timeline.now
        for entry in batch.entries:
            id = str(entry.request.id)
            client = self.clients.get(id)
            if client is not None:
                assert client.worker is worker, f"{client.job} runs on {worker.name}, which does not have it"
            else:
                assert id in self.gone, f"request {id} runs for nobody"
                since = now - self.gone[id][1]
                assert since <= self.delay, f"request {id} still runs {since:.3f} s after its client has gone"

    # Time

    def set_timer(self) -> None:
        """Have the dispatcher called at its next deadline."""
        due = self.dispatcher.tick(self.timeline.now)
        if due is not None and due < self.timer:
            self.timer = due
            self.timeline.at(due + self.rng.random() * LATE, self.ring, due)

    def ring(self, due: float) -> None:
        """A timer rings."""
        if due == self.timer:
            self.timer = inf
            self.set_timer()

    def drain(self) -> None:
        """The server is to stop."""
        self.result.faults["drain"] += 1
        grace = self.rng.choice((0.0, 0.05, 1.0))
        self.drained_at = self.timeline.now + grace
        self.dispatcher.drain(self.timeline.now, grace)
        self.set_timer()

    # Invariants

    def check(self) -> None:
        """What must hold after every event."""
        dispatcher, now = self.dispatcher, self.timeline.now
        waiting = dispatcher.num_waiting + dispatcher.num_running
        assert waiting == len(self.clients), f"{len(self.clients)} clients wait, it knows {waiting}"
        leaving = dispatcher.num_unfinished - waiting
        assert leaving == len(self.gone), f"{len(self.gone)} requests are being cancelled, it knows {leaving}"
        if self.clients:
            due = min(next(iter(self.clients.values())).deadline, self.drained_at)
            assert now <= due + LATE, f"a request is {now - due:.3f} s late"
        if now > self.settled_at:
            assert self.over, f"{dispatcher.num_unfinished} requests never end"

    def check_sent(self) -> None:
        """Nobody waits for a worker while one is up."""
        if self.up:
            for client in self.clients.values():
                assert client.worker in self.up, f"{client.job} waits although a worker is up"

    def check_end(self) -> None:
        """What must hold when all is over."""
        result, dispatcher = self.result, self.dispatcher
        assert sum(result.ended.values()) == result.requests, f"requests were lost: {result.ended}"
        assert not dispatcher.num_unfinished, f"{dispatcher.num_unfinished} requests are left over"
        left = (dispatcher._open, dispatcher._leaving, dispatcher._waiting)
        assert not any(left), f"the tables are not empty: {left}"
        assert dispatcher.workers.keys() == {worker.name for worker in self.up}
        assert self.router.known <= dispatcher.workers.keys(), f"{self.router.known} are remembered"
        for worker in self.pool.workers:
            assert worker.idle, f"worker {worker.name} is still at work"
            assert not dispatcher.workers[worker.name].num_jobs, f"worker {worker.name} is said to have jobs"
            worker.blocks.restore()
            check(worker.scheduler)
            result.steps += worker.scheduler.num_steps
