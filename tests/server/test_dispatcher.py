"""The life of requests: one end each, whatever happens on the way."""

import pytest

from twofold.engine.sampling_params import SamplingParams
from twofold.server.dispatcher import LONGEST_RETRY, UNKNOWN_RETRY, Dispatcher, Refused
from twofold.server.messages import Cancel, Chunk, Embed, Embedded, Ended, Failed, Generate, Ready

SEATS = 2
READY = Ready("tiny", 512, SEATS, 64, 4, 100, 100)


class LeastBusy:
    """A router that is easy to foresee."""

    def __init__(self):
        self.forgotten = []

    def choose(self, job, workers):
        return min(workers, key=lambda worker: worker.num_jobs).name

    def forget(self, worker):
        self.forgotten.append(worker)


class Bench:
    """A dispatcher with what it sent and delivered."""

    def __init__(self, *workers, max_queue=2, timeout=10.0):
        self.sent = []
        self.delivered = []
        self.router = LeastBusy()
        self.dispatcher = Dispatcher(
            max_queue=max_queue,
            timeout=timeout,
            router=self.router,
            send=lambda worker, command: self.sent.append((worker, command)),
            deliver=lambda id, event: self.delivered.append((id, event)),
        )
        for worker in workers:
            self.dispatcher.worker_up(worker, READY, 0.0)

    def submit(self, id, now=0.0):
        job = Generate(id, (1, 2, 3), SamplingParams())
        self.dispatcher.submit(job, now)
        return job

    def failures(self):
        return [(id, event.kind) for id, event in self.delivered if isinstance(event, Failed)]

    def counts(self):
        d = self.dispatcher
        return d.num_waiting, d.num_running, d.num_unfinished


def chunk(id):
    return Chunk(id, "text", 1)


def ended(id, reason="stop"):
    return Ended(id, reason, 3, 1, 0, 0, 0, 0.0, 0.1, 0.2)


def test_a_request_is_sent_answered_and_forgotten():
    bench = Bench("a")
    job = bench.submit("1")
    assert bench.sent == [("a", job)]
    assert bench.counts() == (1, 0, 1)
    bench.dispatcher.event("a", chunk("1"), 1.0)
    assert bench.counts() == (0, 1, 1)
    bench.dispatcher.event("a", ended("1"), 2.0)
    assert bench.counts() == (0, 0, 0)
    assert bench.delivered == [("1", chunk("1")), ("1", ended("1"))]
    assert bench.dispatcher.workers["a"].num_jobs == 0
    assert bench.dispatcher.tick(100.0) is None


def test_embeddings_and_what_a_worker_refuses_end_too():
    bench = Bench("a")
    bench.dispatcher.submit(Embed("1", (1, 2)), 0.0)
    bench.submit("2")
    bench.dispatcher.event("a", Embedded("1", (0.5,), 2), 1.0)
    bench.dispatcher.event("a", Failed("2", "invalid", "too long"), 1.0)
    assert [type(event) for _, event in bench.delivered] == [Embedded, Failed]
    assert bench.counts() == (0, 0, 0)


def test_without_a_worker_requests_wait_in_order():
    bench = Bench()
    jobs = [bench.submit("1"), bench.submit("2")]
    assert bench.sent == []
    with pytest.raises(Refused) as refused:
        bench.submit("3")
    assert refused.value.kind == "unavailable"
    assert refused.value.retry_after == UNKNOWN_RETRY
    bench.dispatcher.worker_up("a", READY, 1.0)
    assert bench.sent == [("a", job) for job in jobs]


def test_more_than_runs_and_may_wait_is_refused():
    bench = Bench("a", "b", max_queue=1)
    for index in range(2 * SEATS + 1):
        bench.submit(str(index))
    with pytest.raises(Refused, match="5 requests are running or waiting") as refused:
        bench.submit("5")
    assert refused.value.kind == "queue_full"
    assert [worker.num_jobs for worker in bench.dispatcher.workers.values()] == [3, 2]
    # A cancelled request takes room until its worker has confirmed.
    bench.dispatcher.leave("0", 1.0)
    with pytest.raises(Refused):
        bench.submit("5")
    bench.dispatcher.event("a", ended("0", "cancelled"), 1.0)
    bench.submit("5")
    assert bench.delivered == []


def test_retry_after_follows_the_rate_of_endings():
    bench = Bench("a", max_queue=30, timeout=1000.0)

    def refused(now):
        with pytest.raises(Refused) as caught:
            bench.submit("more", now)
        return caught.value.retry_after

    for index in range(32):
        bench.submit(str(index))
    assert refused(0.0) == UNKNOWN_RETRY
    for index in range(10):
        bench.dispatcher.event("a", ended(str(index)), 0.5 * index)
        bench.submit(f"again {index}", 0.5 * index)
    # One in half a second, and 32 wait.
    assert refused(5.0) == pytest.approx(16.0)
    assert refused(10.0) == pytest.approx(32.0)
    assert refused(500.0) == LONGEST_RETRY


def test_a_client_that_leaves_gets_nothing_more_and_its_worker_is_told():
    bench = Bench("a")
    bench.submit("1")
    bench.dispatcher.event("a", chunk("1"), 1.0)
    bench.dispatcher.leave("1", 2.0)
    bench.dispatcher.leave("1", 2.0)
    assert bench.sent[1:] == [("a", Cancel("1"))]
    # What was under way, and the confirmation.
    bench.dispatcher.event("a", chunk("1"), 2.1)
    assert bench.counts() == (0, 0, 1)
    bench.dispatcher.event("a", ended("1", "cancelled"), 2.2)
    assert bench.counts() == (0, 0, 0)
    assert bench.delivered == [("1", chunk("1"))]
    assert bench.dispatcher.workers["a"].num_jobs == 0


def test_a_client_may_leave_before_there_is_a_worker_and_after_the_end():
    bench = Bench()
    bench.submit("1")
    bench.dispatcher.leave("1", 1.0)
    bench.dispatcher.worker_up("a", READY, 2.0)
    assert bench.sent == []
    bench.submit("2", 2.0)
    bench.dispatcher.event("a", ended("2"), 3.0)
    bench.dispatcher.leave("2", 3.0)
    assert len(bench.sent) == 1
    assert bench.counts() == (0, 0, 0)


def test_a_deadline_fails_the_request_and_cancels_it():
    bench = Bench("a")
    bench.submit("1", 0.0)
    bench.submit("2", 4.0)
    assert bench.dispatcher.tick(9.9) == 10.0
    assert bench.dispatcher.tick(10.0) == 14.0
    assert bench.failures() == [("1", "timeout")]
    assert bench.sent[-1] == ("a", Cancel("1"))
    bench.dispatcher.event("a", ended("1"), 10.1)  # it crossed the Cancel
    assert len(bench.delivered) == 1
    assert bench.counts() == (1, 0, 1)
    assert bench.dispatcher.tick(14.0) is None
    assert bench.failures()[1:] == [("2", "timeout")]


def test_deadlines_hold_without_a_worker():
    bench = Bench()
    bench.submit("1")
    assert bench.dispatcher.tick(10.0) is None
    assert bench.failures() == [("1", "timeout")]
    assert bench.counts() == (0, 0, 0)
    bench.dispatcher.worker_up("a", READY, 11.0)
    assert bench.sent == []


def test_a_lost_worker_s_requests_are_sent_elsewhere_unless_they_have_begun():
    bench = Bench("a", "b")
    first = bench.submit("1")
    bench.submit("2")  # to b
    bench.submit("3")  # to a
    bench.dispatcher.event("a", chunk("3"), 1.0)
    bench.dispatcher.worker_lost("a", 2.0)
    assert bench.failures() == [("3", "lost")]
    assert bench.sent[3:] == [("b", first)]
    assert bench.router.forgotten == ["a"]
    bench.dispatcher.event("b", ended("1"), 3.0)
    bench.dispatcher.event("b", ended("2"), 3.0)
    assert bench.counts() == (0, 0, 0)


def test_a_request_is_sent_elsewhere_once():
    bench = Bench("a")
    job = bench.submit("1")
    bench.dispatcher.worker_lost("a", 1.0)
    assert bench.counts() == (1, 0, 1)
    bench.dispatcher.worker_up("b", READY, 2.0)
    assert bench.sent == [("a", job), ("b", job)]
    bench.dispatcher.worker_lost("b", 3.0)
    assert bench.failures() == [("1", "lost")]
    assert bench.counts() == (0, 0, 0)


def test_a_lost_worker_confirms_no_cancels():
    bench = Bench("a")
    bench.submit("1")
    bench.dispatcher.leave("1", 1.0)
    bench.dispatcher.worker_lost("a", 2.0)
    bench.dispatcher.worker_lost("a", 2.0)
    assert bench.counts() == (0, 0, 0)
    assert bench.delivered == []


def test_what_a_former_incarnation_had_sent_is_ignored():
    bench = Bench("a")
    bench.submit("1")
    bench.dispatcher.worker_lost("a", 1.0)
    bench.dispatcher.worker_up("a'", READY, 2.0)
    bench.dispatcher.event("a", chunk("1"), 2.1)
    bench.dispatcher.event("a", ended("1"), 2.1)
    assert bench.delivered == []
    bench.dispatcher.event("a'", ended("1"), 2.2)
    assert bench.delivered == [("1", ended("1"))]


def test_draining_refuses_new_requests_and_ends_what_is_left():
    bench = Bench("a")
    bench.submit("1")
    bench.submit("2")
    bench.dispatcher.drain(1.0, 5.0)
    assert bench.dispatcher.draining
    with pytest.raises(Refused) as refused:
        bench.submit("3", 2.0)
    assert (refused.value.kind, refused.value.retry_after) == ("draining", 4.0)
    bench.dispatcher.event("a", ended("1"), 2.0)
    assert bench.dispatcher.tick(2.0) == 6.0
    bench.dispatcher.drain(2.0, 50.0)  # a second one does not lengthen it
    assert bench.dispatcher.tick(6.0) is None
    assert bench.failures() == [("2", "draining")]
    assert bench.sent[-1] == ("a", Cancel("2"))


def test_used_ids_and_names_are_bugs():
    bench = Bench("a")
    bench.submit("1")
    with pytest.raises(AssertionError, match="in use"):
        bench.submit("1")
    with pytest.raises(AssertionError, match="is up already"):
        bench.dispatcher.worker_up("a", READY, 0.0)
