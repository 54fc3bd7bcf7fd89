"""A deployment that was built: seconds and joules of its steps, remembered, and what it holds in memory."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.engine.active import the_one
from twofold.engine.batch import Batch
from twofold.engine.build import Limits, decide_limits, memory_for
from twofold.engine.memory import MemoryPlan
from twofold.engine.request import Request
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.engine.serving_profile import get_serving
from twofold.explore.space import Setting
from twofold.jobs.steps import StepPredictor
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.tensors import Checkpoint
from twofold.ops.attention import Span
from twofold.plan import Plan


@dataclass(frozen=True, slots=True)
class Times:
    """One step: latency in seconds, slot (seconds of its slowest pipeline stage) and joules of the
    deployment."""

    latency: float
    slot: float
    joules: float

    def minus(self, other: Times) -> Times:
        """What this one takes more than `other`."""
        return Times(self.latency - other.latency, self.slot - other.slot, self.joules - other.joules)

    def plus(self, other: Times) -> Times:
        """Both, one after the other."""
        return Times(self.latency + other.latency, self.slot + other.slot, self.joules + other.joules)

    def times(self, factor: float) -> Times:
        """This many such steps."""
        return Times(self.latency * factor, self.slot * factor, self.joules * factor)


class Deployed:
    """One replica of `plan` (whose techniques, formats and layout count, not its limits) on a device.

    prompt: tokens of a prompt that the model goes on with (a prompt filter drops some); yielded: tokens per
    decode of a sequence, above one where drafts are accepted. ValueError where the plan cannot work there.
    """

    def __init__(self, plan: Plan, device: str, spec: ModelSpec, stored: Checkpoint | None) -> None:
        least = plan.engine.model_copy(update={"max_num_seqs": 1, "max_num_batched_tokens": 1})
        self.plan = plan
        self._stored = stored
        self.predictor = StepPredictor(
            plan.model_copy(update={"engine": least}), device, spec=spec, stored=stored
        )
        engine = self.predictor.engine
        self.model = engine.runner.model
        self.device = self.predictor.device
        self.policy = engine.scheduler.policy
        self.host = engine.host
        self.frontend = get_serving(plan.engine.serving).frontend
        self.filter = the_one([active.prompt_filter for active in engine.actives])
        drafts = engine.runner.drafts
        if drafts is not None and drafts.runs_model:
            raise ValueError(
                "a search estimates steps of the model alone, not those of a draft model before them: use "
                "`twofold predict` or `twofold compare` for plans with one"
            )
        self._drafting = (0.0, 0) if drafts is None else (drafts.rate, round(drafts.drafted))
        self.yielded = 1.0 if drafts is None else 1.0 + drafts.rate * drafts.accepted
        self._plans: dict[Limits, MemoryPlan] = {}
        self._known: dict[tuple[int, ...], Times] = {}

    # --- steps ---

    def decode(self, batch: int, context: int) -> Times:
        """A step in which `batch` sequences decode, each over `context` cached entries."""
        return self._step(batch, context, 0, 0, 0)

    def prefill(self, batch: int, context: int, prompt: int, tokens: int, before: int = 0) -> Times:
        """A step that computes `tokens` of prompts beside `batch` decodes: whole prompts of `prompt` tokens
        and a piece of one more, or, where that is all, a piece of one that has `before` tokens cached."""
        return self._step(batch, context, prompt, tokens, before)

    def filtering(self, prompt: int) -> Times:
        """The pass of the prompt filter over one prompt; nothing where it leaves the prompt alone."""
        if self.filter is None or self.filter.kept(prompt) == prompt:
            return Times(0.0, 0.0, 0.0)
        key = (-1, prompt)
        if key not in self._known:
            self.device.begin_step()
            self.filter.select(self.model, self.device, StepInput([Span(prompt, prompt)], prompt, 0))
            cost = self.device.end_step()
            self._known[key] = Times(cost.seconds, max(cost.stages), cost.joules or 0.0)
        return self._known[key]

    def kept(self, prompt: int) -> int:
        """Tokens of a prompt that the model goes on with."""
        return prompt if self.filter is None else self.filter.kept(prompt)

    def chunk(self, remaining: int, decodes: int, budget: int) -> tuple[int, int]:
        """What the plan's own scheduling policy puts into a step beside `decodes` decodes, `budget` tokens in
        all: (tokens of the first prompt, which has `remaining` to compute, tokens of all prompts)."""
        mixing = decodes if self.policy.mixes else 0
        batch = Batch(0, 0)
        batch.num_decodes = batch.num_decode_tokens = mixing
        left = max(1, budget - mixing)
        request = Request("asked", remaining)
        first = max(1, min(self.policy.chunk(request, remaining, batch, left), remaining, left))
        if first < remaining or first == left:
            return first, first
        batch.num_prefills, batch.num_prefill_tokens = 1, first
        return first, left if self.policy.chunk(request, remaining, batch, left - first) else first

    def _step(self, batch: int, context: int, prompt: int, tokens: int, before: int) -> Times:
        key = (batch, context, prompt, tokens, before)
        known = self._known.get(key)
        if known is None:
            rate, length = self._drafting
            guessing = round(rate * batch) if length else 0
            spans = [Span(1, context)] * (batch - guessing) + [Span(1 + length, context + length)] * guessing
            whole, rest = divmod(tokens, prompt) if prompt else (0, 0)
            spans += [Span(prompt, prompt)] * whole + [Span(rest, before + rest)] * (rest > 0)
            ending = max(1, whole) if prompt else 0
            cost = self.predictor.step(spans, batch + guessing * length + ending)
            if self.host is not None:
                prompts = whole + (rest > 0)
                cost = self.host.step(cost, len(spans), sum(span.queries for span in spans), prompts)
            stages = cost.stages or [cost.seconds]
            known = self._known[key] = Times(cost.seconds, max(stages), cost.joules or 0.0)
        return known

    # --- memory ---

    def planned(self, setting: Setting) -> tuple[MemoryPlan, Limits]:
        """What the deployment holds under `setting`, counted as the engine does before it loads, and the
        limits that were decided. ValueError where they contradict each other, DoesNotFitError where memory is
        short."""
        plan = with_setting(self.plan, setting)
        limits = decide_limits(
            plan, self.device, self.model.spec, self.predictor.engine.actives, self._stored
        )
        SchedulerConfig(
            max_num_seqs=limits.max_num_seqs, max_num_batched_tokens=limits.max_num_batched_tokens
        )
        memory = self._plans.get(limits)
        if memory is None:
            memory = self._plans[limits] = memory_for(plan, self.device, self.model, limits)
        return memory, limits


def with_setting(plan: Plan, setting: Setting) -> Plan:
    """`plan` with the limits and the load of `setting`, already checked with the space."""
    engine = plan.engine.model_copy(update=setting.limits())
    load = plan.workload.model_copy(update={"concurrency": setting.concurrency, "rate": setting.rate})
    return plan.model_copy(update={"engine": engine, "workload": load})
