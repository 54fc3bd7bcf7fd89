"""Coasting: predicting steps in which nothing is decided without asking the scheduler about each."""

from __future__ import annotations

from twofold.engine.loop import StepLoop
from twofold.engine.totals import StepRecord
from twofold.models.step import StepInput
from twofold.ops.decodes import Contexts, DecodeSpans


class CoastingLoop(StepLoop):
    """A step loop that can charge steady decoding step after step."""

    @property
    def horizon(self) -> float:
        """The next step sees the requests that came up to this moment."""
        return self._decided if self._decided is not None and self.has_work else self.clock.now()

    def coast(self, until: float) -> bool:
        """Predict decoding steps that see nothing of what comes at `until` or later, up to the next decision
        (see `Scheduler.steady_steps`). They cost and yield what `step` would make of them. False where there
        was none: nothing was done."""
        steps = self._steady_steps() if self.horizon < until else 0
        if not steps:
            return False
        scheduler, device, totals = self.scheduler, self.device, self.totals
        seqs = len(scheduler.decoding)
        contexts = Contexts([r.num_slots + 1 for r in scheduler.decoding])
        moments: list[float] = []
        while len(moments) < steps and self.horizon < until:
            start = self.clock.now()
            device.begin_step()
            self.runner.charge(StepInput(DecodeSpans(contexts, len(moments)), seqs, seqs))
            cost = self._hosted(device.end_step(), start, seqs, seqs, 0)
            self.clock.wait_until(self._charge(cost, start))
            moments.append(self._delivered(seqs))
            if self.trace is not None:
                self.trace.append(StepRecord(start, cost.seconds, 0, seqs, seqs))
        over = scheduler.advance(moments)
        self.runner.follow(scheduler.decoding)
        totals.decodes += seqs * len(moments)
        totals.peak_blocks = max(totals.peak_blocks, scheduler.blocks.num_used)
        totals.peak_seqs = max(totals.peak_seqs, seqs)
        for request, reason in over:
            scheduler.finish(request.id, reason, moments[-1])
            self._retire(request)
        return True

    def _steady_steps(self) -> int:
        """Steps that neither drafts nor prompt filters nor results of real work could change."""
        if self.device.real or self._flights or self.drafter or self._modelled_drafter:
            return 0
        paging = self.runner.rank.paging
        if paging is not None and not paging.lookahead:
            return 0  # pages that are mapped in time of need take some
        if self._unfiltered and self.scheduler.num_running < self.scheduler.config.max_num_seqs:
            return 0
        return self.scheduler.steady_steps()
