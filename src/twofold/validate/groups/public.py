"""Energy and throughput of serving, as public benchmarks measured them: figures that come with the package.

The load of each figure is played as requests that keep its mean concurrency running: energy with its mean
lengths, speed with outputs as spread as the figure says. Energy parameters of a generation were fitted on
part of the figures (see benchmarks/derive_energy.py), and so was the length of the chats' prompts, on speed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from twofold.devices.catalog import get_device
from twofold.devices.efficiency.energy import whole_system_joules
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import Request, SamplingParams
from twofold.jobs.predict import predict_plan
from twofold.models.catalog import get_spec
from twofold.plan import Plan
from twofold.report.schema import Result
from twofold.validate.group import Progress
from twofold.validate.sample import Sample

NAME = "public"
TITLE = "Public benchmarks of serving"
FILES: tuple[str, ...] = ()

_FIGURES = ("energy.yaml", "mlperf.yaml")
_FITTED = ("mlenergy", "llama")  # source and model family of the figures that energy parameters come from
_PROMPTS = ("chat", "h100-sxm")  # task and device of those that the length of prompts was chosen on
_ROUNDS = 5  # requests played for the speed, in units of those that run at once
_SOFTWARE = {"mlenergy": "vllm", "mlperf": "trtllm"}


def wanted(folder: Path) -> list[Path]:
    """The files of the package; `folder` has nothing for this group."""
    del folder
    here = resources.files("twofold.validate") / "public"
    return [Path(str(here / name)) for name in _FIGURES]


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """Joules per output token and tokens/s of every figure, where it has them."""
    figures = [
        figure
        for path in wanted(folder)
        for figure in yaml.safe_load(path.read_text(encoding="utf-8"))["figures"]
    ]
    for number, figure in enumerate(figures):
        if progress is not None:
            progress("public figures", number, len(figures))
        result = predict_plan(_plan(figure), figure["device"])
        if "joules_per_token" in figure:
            joules = _joules(figure, result)
            yield _sample(figure, result, "energy", "J/token", figure["joules_per_token"], joules)
        if "tokens_per_s" in figure:
            speed = (_steady(figure) if "decoded" in figure["workload"] else _speed(result)) * figure.get(
                "replicas", 1
            )
            yield _sample(figure, result, "throughput", "token/s", figure["tokens_per_s"], speed)


def _plan(figure: dict[str, Any]) -> Plan:
    """One replica under its share of the load, twice as many requests as run at a time."""
    replicas, load = figure.get("replicas", 1), figure["workload"]
    running = max(1, round(load["concurrency"] / replicas))
    fp8 = figure["precision"] == "fp8"
    return Plan.from_dict(
        {
            "model": figure["model"],
            "device": figure["device"],
            "parallel": {"tp": figure["count"] // replicas},
            "workload": {
                "requests": 2 * running,
                "prompt": load["prompt"],
                "output": round(load["output"]),
                "concurrency": running,
            },
            "engine": {
                "serving": figure.get("software") or _SOFTWARE[figure["source"]],
                "max_num_seqs": running,
                **({"weights": "fp8", "cache_format": "fp8"} if fp8 else {}),
            },
        },
        figure["name"],
    )


def _steady(figure: dict[str, Any]) -> float:
    """Output tokens/s while as many requests run as can and others wait, which are all there from the start:
    from the first token of the last of those that start at once to that of the last before the queue runs
    dry, as the benchmark measures."""
    plan, load = _plan(figure), figure["workload"]
    device = make_device(plan.device, **plan.parallel.model_dump())
    engine = build_engine(plan, device, get_spec(plan.model))
    running = plan.engine.max_num_seqs
    assert running is not None, "the plan of a figure sets it"
    outputs = _outputs(load["output"], load["decoded"], _ROUNDS * running)
    items = [(0.0, load["prompt"], SamplingParams(max_tokens=n, ignore_eos=True)) for n in outputs]
    ended = engine.play(items)
    started = sorted(r.first_token_time for r in ended if r.first_token_time is not None)
    begin, end = started[running - 1], started[-running - 1]
    return _tokens_between(ended, begin, end) / (end - begin)


def _outputs(mean: float, decoded: float, count: int) -> list[int]:
    """Lengths of outputs with that mean, spread so that a running request has `decoded` of its tokens on
    average: E[n^2] / (2 E[n]) of a gamma distribution. Long outputs run for longer, so more of them run."""
    spread = 2 * decoded / mean - 1  # variance by the square of the mean
    rng = random.Random(0)
    drawn = [rng.gammavariate(1 / spread, 1.0) for _ in range(count)]
    scale = mean * count / sum(drawn)
    return [max(2, round(scale * n)) for n in drawn]


def _tokens_between(requests: Sequence[Request], begin: float, end: float) -> float:
    """Tokens that were handed out in that time, those of a request evenly over its own."""
    tokens = 0.0
    for r in requests:
        assert r.first_token_time is not None
        assert r.last_token_time is not None
        within = min(r.last_token_time, end) - max(r.first_token_time, begin)
        tokens += r.num_output_tokens * max(0.0, within) / (r.last_token_time - r.first_token_time)
    return tokens


def _speed(result: Result) -> float:
    assert result.tokens_per_s is not None
    return result.tokens_per_s.mid


def _joules(figure: dict[str, Any], result: Result) -> float:
    """Joules per token; with processors, fans and power supplies where the meter was at the plug."""
    assert result.energy_per_token is not None, "modelled devices have an energy model"
    joules = result.energy_per_token.mid
    if not figure["whole_system"]:
        return joules
    devices = figure["count"] // figure.get("replicas", 1)
    return whole_system_joules(joules, 1 / _speed(result), devices)


def _sample(
    figure: dict[str, Any], result: Result, quantity: Any, unit: str, measured: float, predicted: float
) -> Sample:
    load = figure["workload"]
    source, family = _FITTED
    used = figure["source"] == source and figure["model"].startswith(family)
    if quantity != "energy":
        used = used and (load["task"], figure["device"]) == _PROMPTS
    return Sample(
        group=NAME,
        case=figure["name"],
        quantity=quantity,
        unit=unit,
        measured=measured,
        predicted=predicted,
        device=figure["device"],
        generation=get_device(figure["device"]).generation,
        precision=figure["precision"],
        fitted=used,
        label=result.confidence,
        model=figure["model"],
        tokens=load["concurrency"] / figure.get("replicas", 1),
        context=load["prompt"] + load["output"],
    )
