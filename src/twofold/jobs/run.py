"""`run`: the plan on a real device, measured; with quality against the unmodified model where it is asked
for."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from twofold.devices.base import Device
from twofold.devices.registry import is_real, make_device
from twofold.engine.build import Progress, build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import Request, SamplingParams
from twofold.fleet.build import build_fleet, build_processes, fleet_technique, processes_technique
from twofold.fleet.fleet import Fleet
from twofold.jobs.predict import label_of
from twofold.jobs.result import Played, make_result, measured_behaviour
from twofold.measure.quality import QualityBaseline, measure_quality
from twofold.measure.resident import Peak, resident_bytes
from twofold.measure.sampler import Sampler
from twofold.measure.sensors import NO_SENSORS, EnergyMeter, find_energy_meter
from twofold.models.find import find_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.report.schema import Figure, Result
from twofold.workloads.text import prose
from twofold.workloads.workload import Workload, make_workload

CALIBRATION_TOKENS = 512
WARM_UP_TOKENS = 16
LONG_ENOUGH = 5.0
"""Seconds of a workload that are worth no repeat."""
METER_INTERVAL = 10.0
"""Seconds between readings of an energy meter: its counter wraps around within minutes on a large machine."""


@dataclass(slots=True)
class RunOutcome:
    """A measured Result, and what a prediction of the same plan should know of it."""

    result: Result
    behaviour: dict[str, float]


def run_plan(
    plan: Plan,
    *,
    label: str | None = None,
    checkpoint: Checkpoint | None = None,
    baseline: QualityBaseline | None = None,
    profile: bool = False,
    repeats: int = 1,
    after_play: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> RunOutcome:
    """Execute `plan` on its device.

    baseline: what the unmodified model says on the quality texts (computed here where it is missing and
    quality is asked for).
    profile: time every op, at some cost in speed. repeats: how often a workload of a few seconds is played;
    the one of median speed is the result, with the range over all as its intervals. after_play: called after
    each. ValueError where the plan cannot work; NotReachedError where a technique was never reached.
    """
    if not is_real(plan.device):
        raise ValueError(f"{plan.device!r} is a modelled device: use `predict`, or run on 'cpu' or 'cuda'")
    if plan.engine.processes:
        processes_technique(plan)  # what is wrong with that is said before anything takes long
    checkpoint = checkpoint or find_checkpoint(plan.model)
    if plan.quality.enabled and baseline is None:
        baseline = quality_baseline(plan, checkpoint, progress)
    workload = make_workload(plan.workload, checkpoint.tokenizer, real=True, vocab=checkpoint.spec.vocab_size)
    files = _files(checkpoint)
    before = resident_bytes(files)
    with contextlib.closing(_load(plan, checkpoint, profile, progress)) as engine:
        warm_up(engine, workload)
        meter, why = _energy_meter(plan.device)
        results: list[Result] = []
        grown: float | None = None
        while len(results) < repeats:
            peak = Peak(files)
            with Sampler(meter, NO_SENSORS, METER_INTERVAL) as sampler:
                played = play(engine, workload, progress)
            if not results:
                engine.check_techniques()
                if plan.device == "cpu" and not plan.engine.processes:
                    grown = peak.read() - before - _kept_bytes(engine.engines)
            accounts = engine.accounts()
            result = make_result(
                plan,
                accounts,
                played,
                workload,
                label=label or label_of(plan),
                model=plan.model,
                grown=grown,
                energy_missing=why,
            )
            results.append(_with_energy(result, sampler.joules, played))
            engine.forget_cached()
            if after_play is not None:
                after_play()
            if played.seconds > LONG_ENOUGH:
                break
        behaviour = measured_behaviour(accounts)
        result = median_result(results)
        if (
            baseline is not None and plan.quality.enabled
        ):  # after the result: scoring is no part of what was timed
            missing = {name: why for name, why in result.missing.items() if name != "quality"}
            quality = measure_quality(engine, baseline, progress)
            result = result.model_copy(update={"quality": quality, "missing": missing})
        return RunOutcome(result, behaviour)


def median_result(results: Sequence[Result]) -> Result:
    """The result of median speed (of two, the slower), its times and speeds with the range over all."""
    ordered = sorted(results, key=lambda result: result.tokens_per_s.mid if result.tokens_per_s else 0.0)
    middle = ordered[(len(ordered) - 1) // 2]
    ranges = {}
    for name in ("ttft", "tpot", "itl", "e2e", "tokens_per_s", "prefill_tokens_per_s"):
        figures = [figure for result in results if (figure := result.figure(name)) is not None]
        if (figure := middle.figure(name)) is not None:
            low, high = min(f.low for f in figures), max(f.high for f in figures)
            ranges[name] = Figure(low=low, mid=figure.mid, high=high, unit=figure.unit)
    return middle.model_copy(update=ranges)


def _energy_meter(device: str) -> tuple[EnergyMeter | None, str]:
    """The meter of a real device's energy, or why there is none."""
    if device != "cpu":
        return None, f"no energy meter is read for device {device!r}"
    meter, why = find_energy_meter(perf_counter())
    return meter, why and f"{why}; a prediction for this-cpu estimates it"


def _with_energy(result: Result, joules: float | None, played: Played) -> Result:
    """`result` with what the meter read while the workload was played."""
    tokens = sum(request.num_output_tokens for request in played.requests)
    if joules is None or not tokens:
        return result
    missing = {name: why for name, why in result.missing.items() if name != "energy_per_token"}
    energy = Figure.exact(joules / tokens, "J/token")
    return result.model_copy(update={"energy_per_token": energy, "missing": missing})


def load_engine(
    plan: Plan, checkpoint: Checkpoint, *, profile: bool = False, progress: Progress | None = None
) -> Engine:
    """The plan's engine on its real device, with weights. With tp above 1 it holds processes: close it."""
    gc.collect()
    device = _device(plan, plan.device, profile)
    ids = _calibration(checkpoint)
    return build_engine(plan, device, checkpoint.spec, checkpoint, calibration=ids, progress=progress)


def _load(plan: Plan, checkpoint: Checkpoint, profile: bool, progress: Progress | None) -> Engine | Fleet:
    """What plays the workload: an engine, or several where a technique works on several."""
    if fleet_technique(plan) is None:
        return load_engine(plan, checkpoint, profile=profile, progress=progress)
    gc.collect()
    if plan.engine.processes:
        calibration = _calibration(checkpoint)
        return build_processes(plan, checkpoint, calibration=calibration, profile=profile, progress=progress)
    return build_fleet(
        plan,
        checkpoint.spec,
        checkpoint,
        make=lambda name: _device(plan, name, profile),
        calibration=_calibration(checkpoint),
        progress=progress,
    )


def _device(plan: Plan, name: str, profile: bool) -> Device:
    return make_device(name, **plan.parallel.model_dump(), **plan.engine.device_options, profile=profile)


def _calibration(checkpoint: Checkpoint) -> Callable[[], Sequence[int]] | None:
    """What techniques learn from, where the model knows text."""
    if checkpoint.tokenizer is None:
        return None
    return lambda: checkpoint.text_tokenizer().encode(prose()[-20_000:], special=False)[:CALIBRATION_TOKENS]


def quality_baseline(plan: Plan, checkpoint: Checkpoint, progress: Progress | None = None) -> QualityBaseline:
    """What the unmodified model says on the plan's quality texts."""
    with contextlib.closing(load_engine(unmodified(plan), checkpoint, progress=progress)) as engine:
        return QualityBaseline.of(engine, plan.quality, progress)


def unmodified(plan: Plan) -> Plan:
    """`plan` without techniques, and so as one instance in this process."""
    engine = plan.engine.model_copy(update={"processes": False})
    return plan.with_techniques(()).model_copy(update={"engine": engine})


def play(engine: Engine | Fleet, workload: Workload, progress: Progress | None = None) -> Played:
    """Run `workload` on `engine`, whose totals then describe it alone."""
    engine.reset_totals()
    total, done = len(workload.items), 0

    def count(_: Request) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("generating", done, total)

    start = engine.clock.now()
    requests = engine.play(workload.items, concurrency=workload.concurrency, on_end=count, record_times=True)
    return Played(requests, max(r.last_token_time or start for r in requests) - start)


def warm_up(engine: Engine | Fleet, workload: Workload) -> None:
    """One short request for each instance, so that first-time costs of libraries are not measured."""
    prompt = workload.items[0].prompt
    assert not isinstance(prompt, int | str)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    count = len(engine.instances) if isinstance(engine, Fleet) else 1
    engine.play([(0.0, list(prompt)[-WARM_UP_TOKENS:], params)] * count)
    engine.forget_cached()


def _files(checkpoint: Checkpoint) -> list[Path]:
    """The files that a checkpoint is read from."""
    path = Path(checkpoint.path).resolve()
    return list(path.glob("*.safetensors")) if path.is_dir() else [path]


def _kept_bytes(engines: Sequence[Engine]) -> int:
    """Bytes of cache blocks that are kept for prompts to come beyond the most that were in use at once: they
    are resident, and the first to be overwritten."""
    return sum(
        max(0, e.scheduler.blocks.num_idle_cached - e.totals.peak_blocks) * e.memory.block_bytes
        for e in engines
    )
