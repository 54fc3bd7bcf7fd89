"""`breakdown`: what each module of a model takes in prefill and in decoding, measured here and predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from twofold.devices.base import Device, LayerT, StepCost
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import is_real
from twofold.engine.build import Progress, build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.steps import StepPredictor
from twofold.measure.module_profile import ModuleProfiler
from twofold.models.find import find_checkpoint, find_spec
from twofold.models.modules import HOST, ModuleNames, in_order
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.base import Op
from twofold.ops.elementwise import Sample
from twofold.plan import Plan

Step = tuple[list[Span], int]
"""Sequences of a step, and how many rows of logits it wants."""

WARM_UPS = 2
"""Rounds before the one that is measured: the first pass of a shape is run op by op, the second is
recorded."""


@dataclass(frozen=True)
class Phase:
    """Seconds by module of all steps of a phase ("prefill", "decode"), in the order of the forward pass, and
    the tokens that the phase computed."""

    name: str
    seconds: dict[str, float]
    tokens: int

    @property
    def total(self) -> float:
        """Seconds of the whole phase."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Breakdown:
    """Both phases on one device; `confidence` as in results."""

    device: str
    confidence: str
    phases: tuple[Phase, ...]


def breakdown_plan(plan: Plan, devices: Sequence[str], progress: Progress | None = None) -> list[Breakdown]:
    """The plan's requests at once (`workload.concurrency` of them, each of `workload.prompt` tokens in and
    `workload.output` out) on the plan's own device, if that is `cpu` and the model's weights are at hand, and
    predicted on modelled `devices`: the same steps on all.

    ValueError where the plan cannot work, or nothing is asked for.
    """
    load = plan.workload
    batch = load.concurrency or 1
    if load.output < 2:
        raise ValueError(f"output is {load.output}; a breakdown of decoding needs at least 2 tokens")
    longest = load.prompt + load.output
    limit = find_spec(plan.model).max_context
    if longest > limit:
        raise ValueError(f"{longest} tokens exceed the context of {plan.model}, {limit} tokens")
    plan = _one_batch(plan, batch)
    found = []
    prefill: list[Step] = [([Span(load.prompt, load.prompt)] * batch, batch)]
    decode: list[Step] = [([Span(1, load.prompt + i)] * batch, batch) for i in range(1, load.output)]
    if is_real(plan.device):
        if plan.device != "cpu":
            raise ValueError(f"modules are timed on device 'cpu'; {plan.device!r} can only be predicted")
        measured, prefill, decode = _measure(plan, batch, progress)
        found.append(measured)
    targets = list(devices) if is_real(plan.device) else [plan.device, *devices]
    for name in dict.fromkeys(targets):
        found.append(_predict(plan, name, prefill, decode))
    return found


def _one_batch(plan: Plan, batch: int) -> Plan:
    """`plan` with limits that put all prompts into one step, so that a phase is one kind of step."""
    load = plan.workload
    limits = {
        "max_num_batched_tokens": batch * load.prompt,
        "max_num_seqs": batch,
        "prefix_caching": False,
        "max_context": load.prompt + load.output,
    }
    return plan.model_copy(update={"engine": plan.engine.model_copy(update=limits)})


# --- measured ---


def _measure(plan: Plan, batch: int, progress: Progress | None) -> tuple[Breakdown, list[Step], list[Step]]:
    checkpoint = find_checkpoint(plan.model)
    device = ModuleProfiler(**plan.engine.device_options, ranks=plan.parallel.tp)
    engine = build_engine(plan, device, checkpoint.spec, checkpoint)
    for turn in range(WARM_UPS + 1):
        if progress is not None:
            progress("measuring" if turn == WARM_UPS else "warming up", turn, WARM_UPS + 1)
        phases, steps = _round(engine, device, plan, batch)
    if progress is not None:
        progress("measuring", WARM_UPS + 1, WARM_UPS + 1)
    engine.check_techniques()
    return Breakdown(device.name, device.confidence, phases), *steps


def _round(
    engine: Engine, device: ModuleProfiler, plan: Plan, batch: int
) -> tuple[tuple[Phase, ...], tuple[list[Step], list[Step]]]:
    """One batch of requests from their prompts to their last tokens."""
    load = plan.workload
    vocab = engine.runner.model.spec.vocab_size
    params = SamplingParams(max_tokens=load.output, ignore_eos=True)
    requests = [
        engine.add([(7919 * i * i + 104729 * i + 31 * number) % vocab for i in range(load.prompt)], params)
        for number in range(batch)
    ]
    phases, steps = [], []
    for name in ("prefill", "decode"):
        engine.device.reset_totals()
        start = perf_counter()
        while not all(r.is_finished if name == "decode" else r.num_output_tokens for r in requests):
            engine.step()
        seconds = perf_counter() - start
        modules = dict(device.modules)
        modules[HOST] = max(0.0, seconds - sum(modules.values()))
        tokens = batch * (load.prompt if name == "prefill" else load.output - 1)
        phases.append(Phase(name, in_order(modules), tokens))
        steps.append(list(device.steps))
    for request in requests:
        engine.forget(request.id)
    return tuple(phases), (steps[0], steps[1])


# --- predicted ---


class ChargedByModule(Device):
    """Charges ops as `inner` does, and adds up by module. modules: seconds by module."""

    real = False

    def __init__(self, inner: ModelledDevice, names: ModuleNames) -> None:
        super().__init__()
        self.inner, self._module_of = inner, names
        self.name, self.confidence = inner.name, inner.confidence
        self.modules: dict[str, float] = {}

    def execute(self, op: Op, *args: Any) -> Any:
        """Charge `op`; returns None for every tensor that a kernel would return."""
        name = self._module_of(op, args)
        self.modules[name] = self.modules.get(name, 0.0) + self.inner.charge(op, op.cost()).seconds
        return None if op.outputs == 1 else (None,) * op.outputs

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """All layers: they are named one by one."""
        return iter(layers)

    def begin_step(self) -> None:
        """Nothing: modules add up over steps."""

    def end_step(self) -> StepCost:
        """What was charged so far."""
        return StepCost(sum(self.modules.values()))


def _predict(plan: Plan, name: str, prefill: list[Step], decode: list[Step]) -> Breakdown:
    """The same steps on the modelled device `name`."""
    steps = StepPredictor(plan, name)
    model = steps.engine.runner.model
    phases = []
    for phase, work in (("prefill", prefill), ("decode", decode)):
        device = ChargedByModule(steps.device, ModuleNames(model))
        host = 0.0
        for spans, logits in work:
            shape = StepInput(spans, sum(span[0] for span in spans), logits)
            model.forward(shape, device)
            device.execute(Sample(logits, model.spec.vocab_size))
            host += _host_seconds(steps, spans, logits, prefills=len(spans) if phase == "prefill" else 0)
        modules = device.modules | {HOST: host}
        tokens = sum(span[0] for spans, _ in work for span in spans)
        phases.append(Phase(phase, in_order(modules), tokens))
    return Breakdown(steps.device.name, steps.device.confidence, tuple(phases))


def _host_seconds(steps: StepPredictor, spans: list[Span], logits: int, *, prefills: int) -> float:
    """What the device's file and the plan's serving software add to a step."""
    host, overhead = steps.engine.host, steps.device.step_overhead
    if host is None:
        return overhead
    cost = steps.step(spans, logits)
    return (
        overhead
        + host.step(cost, len(spans), sum(span[0] for span in spans), prefills).seconds
        - cost.seconds
    )
