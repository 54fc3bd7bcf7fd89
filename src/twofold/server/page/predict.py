"""What a plan would do, for the explore view: one prediction in full, and quick estimates over a range."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from twofold.devices.catalog import THIS_CPU, this_cpu_path
from twofold.devices.registry import modelled_names
from twofold.engine.memory import DoesNotFitError
from twofold.explore.evaluate import Evaluator, Task, Verdict
from twofold.explore.load import Shape
from twofold.explore.space import Setting
from twofold.jobs.predict import predict_plan
from twofold.models.find import find_spec, find_stored
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.report.schema import FIGURES, Result
from twofold.server.page.fragment import FieldError, read

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def predict(values: Any) -> dict[str, Any]:
    """The prediction of the fragment `values`: `label, figures, memory, confidence, intervals, missing, load,
    derived, breakdown`. FieldError where it cannot work, field "memory" where it does not fit."""
    plan = read(values)
    spec, stored = _found(plan.model)
    try:
        result = predict_plan(plan, plan.device, spec=spec, stored=stored)
    except DoesNotFitError as error:
        raise FieldError("memory", str(error)) from None
    except ValueError as error:
        raise FieldError("plan", str(error)) from None
    return _shown(result)


def estimates(values: Any, device: str | None) -> list[dict[str, Any]]:
    """Quick estimates of the fragment `values`: on `device` (with the plan's layout and load), or, where that
    is None, on the plan's own over all `CONCURRENCIES` and its own.

    Each is `device, concurrency, tokens_per_s, ttft, tpot, joules_per_token, memory_bytes, refused`: why
    there are no figures, or an empty text.
    """
    try:
        plan = read(values if device is None or not isinstance(values, dict) else values | {"device": device})
    except FieldError as error:
        if device is None or error.field != "parallel":
            raise
        return [_point(device, Setting(), Verdict(0, "parallel", str(error)))]
    load = plan.workload
    settings = [Setting(concurrency=load.concurrency, rate=load.rate)]
    if device is None:
        own = {load.concurrency or 1} if load.rate is None else set()
        settings = [Setting(concurrency=many) for many in sorted({*CONCURRENCIES, *own})]
        plan = plan.model_copy(update={"workload": load.model_copy(update={"rate": None})})
    task = Task(plan, plan.device, tuple(range(len(settings))), tuple(settings))
    verdicts = _evaluator(plan.model, load.prompt, load.output, load.requests)(task)
    return [
        _point(plan.device, setting, verdict) for setting, verdict in zip(settings, verdicts, strict=True)
    ]


def sweep_devices() -> list[str]:
    """The devices that a sweep goes over."""
    return [THIS_CPU, *modelled_names()] if this_cpu_path().is_file() else modelled_names()


@lru_cache(maxsize=8)
def _found(model: str) -> tuple[ModelSpec, Checkpoint | None]:
    return find_spec(model), find_stored(model)


@lru_cache(maxsize=64)
def _evaluator(model: str, prompt: int, output: int, requests: int | None) -> Evaluator:
    found = Evaluator(model, Shape(prompt, output, requests), {})
    found.prepare()
    return found


def _point(device: str, setting: Setting, verdict: Verdict) -> dict[str, Any]:
    point: dict[str, Any] = {
        "device": device,
        "concurrency": setting.concurrency,
        "tokens_per_s": None,
        "ttft": None,
        "tpot": None,
        "joules_per_token": None,
        "memory_bytes": None,
        "refused": verdict.detail if verdict.constraint else "",
    }
    estimate = verdict.estimate
    if estimate is not None and not verdict.constraint:
        point |= {
            "tokens_per_s": estimate.tokens_per_s,
            "ttft": estimate.ttft["mean"],
            "tpot": estimate.tpot["mean"],
            "joules_per_token": estimate.joules,
            "memory_bytes": estimate.memory,
        }
    return point


def _shown(result: Result) -> dict[str, Any]:
    figures = {
        name: None if (figure := result.figure(name)) is None else figure.model_dump()
        for name in FIGURES
        if name != "quality"
    }
    return {
        "label": result.label,
        "model": result.model,
        "device": result.device,
        "figures": figures,
        "memory": {
            name: None if figure is None else figure["mid"]
            for name, figure in result.memory.model_dump().items()
            if name != "unaccounted"
        },
        "confidence": result.confidence,
        "intervals": result.intervals,
        "missing": result.missing,
        "load": result.workload.model_dump(),
        "derived": result.derived,
        "breakdown": [op.model_dump(include={"kind", "share", "bound"}) for op in result.breakdown],
    }
