"""The simulated request lifecycle plays without a fault, replays exactly, and notices planted bugs."""

import pytest

from twofold.engine.simulate import SimulationError
from twofold.server.dispatcher import Dispatcher
from twofold.server.messages import Cancel, Failed
from twofold.server.routing import PrefixAffinity
from twofold.server.simulation.simulate import simulate
from twofold.server.worker_loop import WorkerLoop


def test_thousands_of_requests_end_once_and_as_if_alone():
    calls = []
    result = simulate(8000, seed=1, progress=lambda done, total: calls.append((done, total)))
    assert sum(result.ended.values()) == result.requests == 8000
    assert calls[-1] == (8000, 8000)
    # Everything that is to be tested has happened.
    ways = ["stop", "length", "embedded", "invalid", "internal", "lost", "timeout", "draining", "left"]
    ways += ["refused queue_full", "refused draining", "refused unavailable"]
    assert not [way for way in ways if not result.ended[way]], result.ended
    faults = ["worker killed", "worker gave up", "worker slowed", "step failed", "memory withheld"]
    faults += ["client left", "drain"]
    assert not [fault for fault in faults if not result.faults[fault]], result.faults
    assert min(result.resent, result.stale, result.cached_tokens, result.workers) > 0


@pytest.mark.long
def test_a_hundred_thousand_requests():
    result = simulate(100_000, seed=2)
    assert sum(result.ended.values()) == 100_000


def test_equal_seeds_play_alike_and_episodes_can_be_replayed():
    whole = simulate(1500, seed=5)
    assert simulate(1500, seed=5) == whole
    assert simulate(1500, seed=6).digest != whole.digest
    parts = [simulate(1500, seed=5, episode=index) for index in range(3)]
    assert sum(part.events for part in parts) == whole.events


def test_without_faults_every_answer_is_complete():
    result = simulate(1500, seed=1, faults=False)
    assert not result.faults
    assert set(result.ended) <= {
        "stop",
        "length",
        "capacity",
        "embedded",
        "invalid",
        "refused queue_full",
    } | {"refused unavailable"}


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_requests"):
        simulate(0)
    with pytest.raises(ValueError, match="episodes 0 to 1"):
        simulate(1000, episode=2)


# Planted bugs. Each is one slip that a rewrite could bring in; the simulation must not survive any of them.


def lost_requests_are_not_told(patch):
    lost = Dispatcher.worker_lost

    def silent(self, worker, now):
        deliver, self._deliver = self._deliver, lambda id, event: None
        lost(self, worker, now)
        self._deliver = deliver

    patch(Dispatcher, "worker_lost", silent)


def lost_requests_stay_where_they_were(patch):
    def forgetful(self, worker, now):
        self._workers.pop(worker, None)
        self._router.forget(worker)

    patch(Dispatcher, "worker_lost", forgetful)


def what_has_begun_is_sent_again(patch):
    lost = Dispatcher.worker_lost

    def again(self, worker, now):
        for request in self._open.values():
            if request.worker == worker:
                self._num_running -= request.begun
                request.begun = False
        lost(self, worker, now)

    patch(Dispatcher, "worker_lost", again)


def requests_are_sent_again_and_again(patch):
    lost = Dispatcher.worker_lost

    def patient(self, worker, now):
        for request in self._open.values():
            request.retried = False
        lost(self, worker, now)

    patch(Dispatcher, "worker_lost", patient)


def lost_workers_confirm_cancels(patch):
    lost = Dispatcher.worker_lost

    def waiting(self, worker, now):
        leaving = dict(self._leaving)
        lost(self, worker, now)
        self._leaving = leaving

    patch(Dispatcher, "worker_lost", waiting)


def ends_are_delivered_twice(patch):
    event = Dispatcher.event

    def twice(self, worker, event_, now):
        open_ = event_.id in self._open
        event(self, worker, event_, now)
        if open_ and isinstance(event_, Failed):
            self._deliver(event_.id, event_)

    patch(Dispatcher, "event", twice)


def answers_go_on_after_the_client_has_gone(patch):
    def deaf(self, worker, event, now):
        if event.id in self._leaving:
            self._deliver(event.id, event)
        original(self, worker, event, now)

    original = Dispatcher.event
    patch(Dispatcher, "event", deaf)


def events_of_lost_workers_count(patch):
    original = Dispatcher.event

    def trusting(self, worker, event, now):
        request = self._open.get(event.id)
        holder = worker if request is None or request.worker is None else request.worker
        original(self, holder, event, now)

    patch(Dispatcher, "event", trusting)


def timeouts_do_not_cancel(patch):
    send_off = Dispatcher._fail

    def fail(self, id, kind, message, now):
        send, self._send = self._send, lambda worker, command: None
        send_off(self, id, kind, message, now)
        self._send = send

    patch(Dispatcher, "_fail", fail)


def clients_that_leave_are_not_cancelled(patch):
    original = Dispatcher.leave

    def leave(self, id, now):
        send, self._send = self._send, lambda worker, command: None
        original(self, id, now)
        self._send = send

    patch(Dispatcher, "leave", leave)


def deadlines_pass(patch):
    patch(Dispatcher, "tick", lambda self, now: None)


def deadlines_begin_again_with_another_worker(patch):
    original = Dispatcher._dispatch

    def dispatch(self, request):
        if request.retried:
            request.deadline += self._timeout
            self._open.move_to_end(request.job.id)
        original(self, request)

    patch(Dispatcher, "_dispatch", dispatch)


def draining_waits_for_everybody(patch):
    def drain(self, now, grace):
        self._drained_at = float("inf")

    patch(Dispatcher, "drain", drain)


def draining_accepts_requests(patch):
    submit = Dispatcher.submit

    def accepting(self, job, now):
        drained, self._drained_at = self._drained_at, None
        try:
            submit(self, job, now)
        finally:
            self._drained_at = drained

    patch(Dispatcher, "submit", accepting)


def one_more_is_accepted(patch):
    capacity = Dispatcher.capacity.fget
    patch(Dispatcher, "capacity", property(lambda self: capacity(self) + 1))


def cancelled_requests_take_no_room(patch):
    patch(Dispatcher, "num_unfinished", property(lambda self: len(self._open)))


def waiting_requests_stay_when_a_worker_comes(patch):
    original = Dispatcher.worker_up

    def up(self, worker, ready, now):
        waiting, self._waiting = self._waiting, {}
        original(self, worker, ready, now)
        self._waiting = waiting

    patch(Dispatcher, "worker_up", up)


def who_left_while_waiting_is_sent(patch):
    def close(self, id, request, now):
        del self._open[id]
        self._num_running -= request.begun
        self._endings.append(now)

    patch(Dispatcher, "_close", close)


def ended_jobs_still_count_for_their_worker(patch):
    original = Dispatcher.event

    def event(self, worker, event, now):
        state = self._workers.get(worker)
        before = state and state.num_jobs
        original(self, worker, event, now)
        if state:
            state.num_jobs = before

    patch(Dispatcher, "event", event)


def dead_workers_are_remembered(patch):
    patch(PrefixAffinity, "forget", lambda self, worker: None)


def workers_do_not_hear_cancels(patch):
    patch(WorkerLoop, "_cancel", lambda self, id: None)


def cancels_are_not_confirmed(patch):
    obey = WorkerLoop._obey

    def quiet(self, commands):
        for command in commands:
            before = len(self._events)
            obey(self, [command])
            if isinstance(command, Cancel):
                del self._events[before:]

    patch(WorkerLoop, "_obey", quiet)


def failed_steps_are_not_told(patch):
    recover = WorkerLoop._recover

    def quiet(self, error):
        before = len(self._events)
        recover(self, error)
        del self._events[before:]

    patch(WorkerLoop, "_recover", quiet)


def the_last_text_is_lost(patch):
    move = WorkerLoop._move

    def partly(self, live):
        if not live.request.is_finished:
            move(self, live)

    patch(WorkerLoop, "_move", partly)


# With this seed all of them are met early on.
SEED = 5

BUGS = [
    lost_requests_are_not_told,
    lost_requests_stay_where_they_were,
    what_has_begun_is_sent_again,
    requests_are_sent_again_and_again,
    lost_workers_confirm_cancels,
    ends_are_delivered_twice,
    answers_go_on_after_the_client_has_gone,
    events_of_lost_workers_count,
    timeouts_do_not_cancel,
    clients_that_leave_are_not_cancelled,
    deadlines_pass,
    deadlines_begin_again_with_another_worker,
    draining_waits_for_everybody,
    draining_accepts_requests,
    one_more_is_accepted,
    cancelled_requests_take_no_room,
    waiting_requests_stay_when_a_worker_comes,
    who_left_while_waiting_is_sent,
    ended_jobs_still_count_for_their_worker,
    dead_workers_are_remembered,
    workers_do_not_hear_cancels,
    cancels_are_not_confirmed,
    failed_steps_are_not_told,
    the_last_text_is_lost,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_noticed_and_replays(bug, monkeypatch):
    bug(monkeypatch.setattr)
    with pytest.raises(SimulationError, match=rf"seed {SEED}, episode \d+, step \d+") as caught:
        simulate(10_000, seed=SEED)
    number = int(str(caught.value).split("episode ")[1].split(",")[0])
    with pytest.raises(SimulationError) as again:
        simulate(10_000, seed=SEED, episode=number)
    assert str(again.value) == str(caught.value)
