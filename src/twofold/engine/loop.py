"""The step loop: filter a prompt, schedule, run, take in results; over and over, under a wall or a virtual
clock.

arrivals ─▶ (prompt filter) ─▶ Scheduler.schedule ─▶ Runner.run on the Device ─▶ Scheduler.update ─▶ ended
requests
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from twofold.devices.base import Device, StepCost
from twofold.devices.clock import VirtualClock
from twofold.engine.active import Active, the_one
from twofold.engine.batch import Batch
from twofold.engine.draft import Drafter, ModelledDrafts
from twofold.engine.host import Host
from twofold.engine.integrity import check
from twofold.engine.landing import Flight, Landing
from twofold.engine.output import OutputBuilder
from twofold.engine.request import Request
from twofold.engine.runner import Runner
from twofold.engine.scheduler import Scheduler
from twofold.engine.totals import EngineTotals, StepRecord
from twofold.models.step import StepInput
from twofold.ops.attention import Span


class StepLoop(Landing):
    """What the engine does step by step. Holds the requests that wait for a prompt filter, the batches in
    flight (several in a pipeline) and the outputs.

    actives: the techniques that are on; host: what serving software adds to modelled steps; totals: what was
    done so far; trace: one record per step where `record_steps` was asked for; newest: the batch launched
    last.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        actives: Sequence[Active],
        *,
        host: Host | None = None,
        record_steps: bool = False,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.host = host
        # Until when arrivals are seen by the next step, where it is prepared while one runs.
        self._decided: float | None = None
        self.device: Device = runner.device
        self.clock = runner.device.clock
        self.actives = list(actives)
        self.totals = EngineTotals()
        self.trace: list[StepRecord] | None = [] if record_steps else None
        self.drafter = the_one([a.drafter for a in actives])
        self._modelled_drafter = runner.drafts
        self._filter = the_one([a.prompt_filter for a in actives])
        self._unfiltered: deque[Request] = deque()
        # When the filter pass begun last is done.
        self._filtered = 0.0
        # What guessing for the next step has taken.
        self._drafting: StepCost | None = None
        self._outputs: dict[str | int, OutputBuilder] = {}
        self._flights: deque[Flight] = deque()
        self.newest: Flight | None = None
        self._stage_free: list[float] = []
        self._ended: list[Request] = []

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self.scheduler.has_work or bool(self._unfiltered) or bool(self._flights)

    @property
    def is_busy(self) -> bool:
        """Whether a batch is in flight, or a prompt is being filtered."""
        return bool(self._flights) or self._filtered > self.clock.now()

    def check_techniques(self) -> None:
        """NotReachedError where a technique is on and nothing went through it."""
        for active in self.actives:
            active.check_reached()

    def reset_totals(self) -> None:
        """Forget what was done so far, on the device as well."""
        assert not self.has_work
        self.totals = EngineTotals(joules=0.0)
        self.device.reset_totals()

    def forget_cached(self) -> None:
        """Forget the beginnings of prompts that are kept for later ones."""
        self.scheduler.blocks.forget_cached()

    def step(self) -> list[Request]:
        """Do the next thing: filter a prompt, launch a batch, or wait for one in flight. Returns requests
        that ended."""
        self.land()
        moment = self.launch()
        if moment is not None:
            self.clock.wait_until(moment)
            self.land()
        elif not self.scheduler.has_work and not self._unfiltered:
            check(self.scheduler)
        return self.take_ended()

    def land(self) -> None:
        """Take in the results of the batches that are done by now."""
        self._land(self.clock.now())

    def launch(self) -> float | None:
        """Begin the next thing that can be done now, if any, without waiting for it. Returns the moment at
        which there is something to take in or to begin; None where nothing goes on."""
        now = self.clock.now()
        if self._filtered > now:
            return self._filtered
        if (
            self._unfiltered
            and self.scheduler.num_running < self.scheduler.config.max_num_seqs
            and not self._flights
        ):
            self._filter_prompt(self._unfiltered.popleft())
            return self._filtered
        launched = False
        if len(self._flights) < self.scheduler.config.pipeline_depth:
            self._propose()
            batch = self.scheduler.schedule(self.clock.now())
            self._release(batch)
            launched = not batch.is_empty
            if launched:
                self._launch(batch)
        if not self._flights:
            return None
        flight = self._flights[0]
        # The next batch may enter once the first stage is free; with nothing to launch, a result must come
        # first.
        more = launched and len(self._flights) < self.scheduler.config.pipeline_depth
        return min(flight.done, self._stage_free[0]) if more else flight.done

    def take_ended(self) -> list[Request]:
        """Requests that have ended and were not taken before."""
        ended, self._ended = self._ended, []
        return ended

    # --- parts of a step ---

    def _propose(self) -> None:
        """Ask the drafter about every request that can decode next. Where it runs a model, the next step
        takes that much longer."""
        drafter = self.drafter or self._modelled_drafter
        if drafter is None:
            return
        asked = [r for r in self.scheduler.decoding if not (r.in_flight or r.is_prefilling or r.num_drafts)]
        if not asked:
            return
        for request, drafts in zip(asked, self._guesses(drafter, asked), strict=True):
            if drafts:
                request.set_drafts(drafts)

    def _guesses(
        self, drafter: Drafter | ModelledDrafts, asked: Sequence[Request]
    ) -> Sequence[Sequence[int] | int]:
        """The drafter's guesses, or their numbers."""
        limit = self.scheduler.config.max_num_batched_tokens
        if not drafter.runs_model:
            return drafter.propose(asked, limit)
        self.device.begin_step()
        with torch.inference_mode():
            found = drafter.propose(asked, limit)
        cost = self.device.end_step()
        self._drafting = cost if self._drafting is None else self._drafting.then(cost)
        return found

    def _launch(self, batch: Batch) -> None:
        start = self.clock.now()
        result = self.runner.run(batch)
        totals = self.totals
        drafting = 0.0
        if self._drafting is not None:
            drafting = self._drafting.seconds
            totals.draft_seconds += drafting
            result.cost, self._drafting = self._drafting.then(result.cost), None
        result.cost = self._hosted(result.cost, start, batch.num_seqs, batch.num_tokens, batch.num_prefills)
        done = self._charge(result.cost, start)
        totals.prompt_tokens += batch.num_prefill_tokens
        totals.decodes += batch.num_decodes
        totals.peak_blocks = max(totals.peak_blocks, self.scheduler.blocks.num_used)
        totals.peak_seqs = max(totals.peak_seqs, self.scheduler.num_running)
        if batch.num_prefills:
            totals.prefill_seconds += result.cost.seconds - drafting
        if self.trace is not None:
            record = StepRecord(
                start, result.cost.seconds, batch.num_prefill_tokens, batch.num_decode_tokens, batch.num_seqs
            )
            self.trace.append(record)
        self.newest = Flight(done, batch, result)
        self._flights.append(self.newest)

    def _hosted(self, cost: StepCost, start: float, seqs: int, tokens: int, prefills: int) -> StepCost:
        """`cost` of a step that starts now, with the host's part."""
        if self.host is None:
            return cost
        if self.host.overlapped:
            self._decided = start
        return self.host.step(cost, seqs, tokens, prefills)

    def _charge(self, cost: StepCost, start: float) -> float:
        """Account for a step that starts now; returns when it is done. Steps overlap stage by stage in a
        pipeline."""
        totals = self.totals
        totals.steps += 1
        totals.busy_seconds += cost.seconds
        totals.joules = None if cost.joules is None or totals.joules is None else totals.joules + cost.joules
        if not isinstance(self.clock, VirtualClock):
            return self.clock.now()
        if len(self._stage_free) < len(cost.stages):
            self._stage_free = [0.0] * len(cost.stages)
        if len(totals.stage_seconds) < len(cost.stages):
            totals.stage_seconds = [0.0] * len(cost.stages)
        moment = start
        for stage, seconds in enumerate(cost.stages):
            moment = max(moment, self._stage_free[stage]) + seconds
            self._stage_free[stage] = moment
            totals.stage_seconds[stage] += seconds
        return moment

    def _release(self, batch: Batch) -> None:
        """Rows of requests that the scheduler has thrown out of memory."""
        for request in batch.preempted:
            self.runner.release(request, settled=False)
        for request in batch.finished:
            self._retire(request)

    def _filter_prompt(self, request: Request) -> None:
        """Run the filter pass on one prompt as a step of its own, then let the request go on with what was
        kept."""
        assert self._filter is not None
        start = self.clock.now()
        self.totals.filtered_prompts += 1
        if self.device.real:
            assert request.prompt_ids is not None
            request.replace_context(self._kept(list(request.prompt_ids)))
        else:
            length = request.num_prompt_tokens
            self._select(StepInput([Span(length, length)], length, 0))
            request.replace_context(self._filter.kept(length))
        request.share_prefix = False
        request.first_scheduled_time = start
        self.scheduler.add(request)

    def _kept(self, prompt: list[int]) -> list[int]:
        """The tokens of `prompt` that the filter keeps."""
        length, where = len(prompt), self.runner.where
        ids, positions = torch.tensor(prompt, device=where), torch.arange(length, device=where)
        kept = self._select(StepInput([Span(length, length)], length, 0, ids, positions))
        assert kept is not None
        return [prompt[i] for i in kept.tolist()]

    def _select(self, step: StepInput) -> torch.Tensor | None:
        assert self._filter is not None
        start = self.clock.now()
        self.device.begin_step()
        with torch.inference_mode():
            kept = self.runner.rank.select(step)
        self._filtered = self._charge(self.device.end_step(), start)
        return kept
