"""Landing: taking in what a batch yielded, up to the requests that it ends."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from twofold.devices.clock import Clock
from twofold.engine.batch import Batch
from twofold.engine.draft import Drafter, ModelledDrafts
from twofold.engine.host import Host
from twofold.engine.output import OutputBuilder
from twofold.engine.request import Request
from twofold.engine.runner import Runner, StepResult
from twofold.engine.scheduler import Scheduler
from twofold.engine.totals import EngineTotals


class Flight(NamedTuple):
    """A batch that was launched: when it is done, and what it yields."""

    done: float
    batch: Batch
    result: StepResult


class Landing:
    """The half of the step loop that follows a launched batch."""

    scheduler: Scheduler
    runner: Runner
    clock: Clock
    host: Host | None
    totals: EngineTotals
    drafter: Drafter | None
    _modelled_drafter: ModelledDrafts | None
    _outputs: dict[str | int, OutputBuilder]
    _flights: deque[Flight]
    _ended: list[Request]

    def _delivered(self, tokens: int) -> float:
        """When clients have the `tokens` that are there now."""
        now = self.clock.now()
        return now if self.host is None else self.host.deliver(now, tokens)

    def _land(self, now: float) -> None:
        """Take in the results of the batches that are done."""
        while self._flights and self._flights[0].done <= now:
            _, batch, result = self._flights.popleft()
            moment = self._delivered(batch.num_samples)
            before = [e.request.num_output_tokens for e in batch.entries] if result.tokens is not None else []
            if result.tokens is not None:
                self._end_failed(batch)
                ended = self.scheduler.update(batch, result.tokens, moment)
                self._collect(batch, result, before)
            else:
                ended = self.scheduler.update_counts(batch, result.counts, moment)
            if batch.num_decode_tokens > batch.num_decodes:
                self._observe_drafts(batch, result)
            for request in ended:
                self._retire(request)

    def _end_failed(self, batch: Batch) -> None:
        """End requests whose grammar can be followed no longer; what was chosen for them is dropped."""
        for entry in batch.entries:
            matcher = entry.request.matcher
            if matcher is not None and matcher.error is not None:
                self.scheduler.finish(entry.request.id, "error", self.clock.now())

    def _observe_drafts(self, batch: Batch, result: StepResult) -> None:
        for i, entry in enumerate(batch.entries):
            if not entry.num_drafts:
                continue
            yielded = result.counts[i] if result.tokens is None else len(result.tokens[i])  # type: ignore[index]
            self.totals.add_drafts(entry.num_drafts, yielded - 1)
            if self.drafter is not None:
                self.drafter.observe(entry.request, entry.num_drafts, yielded - 1)

    def _collect(self, batch: Batch, result: StepResult, before: list[int]) -> None:
        """Hand new tokens and hidden states to the outputs; end requests whose text met a stop string."""
        assert result.tokens is not None
        sums = iter(() if result.pooled is None else result.pooled)
        for i, entry in enumerate(batch.entries):
            request = entry.request
            if request.pool:
                self._outputs[request.id].pool(entry.start, next(sums))
            new = request.num_output_tokens - before[i]
            if (
                new
                and self._outputs[request.id].extend(new, result.logprobs[i][:new])
                and not request.is_finished
            ):
                self._finish(request.id, "stop")

    def _finish(self, id: str | int, reason: str) -> bool:
        request = self.scheduler.requests.get(id)
        if request is None:
            return False
        ended = self.scheduler.finish(id, reason, self.clock.now())  # type: ignore[arg-type]
        if request.is_finished:
            self._retire(request)
        return ended

    def _retire(self, request: Request) -> None:
        self.runner.release(request)
        for drafter in (self.drafter, self._modelled_drafter):
            if drafter is not None:
                drafter.forget(request)
        self.totals.output_tokens += request.num_output_tokens
        self._outputs[request.id].close()
        self._ended.append(request)
