"""Energy and throughput of serving, as public benchmarks measured them: figures that come with the package.

The load of each figure is played as requests of its mean lengths that keep its mean concurrency running.
Energy parameters of a generation were fitted on part of the figures (see benchmarks/derive_energy.py); speed
was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from twofold.devices.catalog import get_device
from twofold.devices.efficiency.energy import whole_system_joules
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.report.schema import Result
from twofold.validate.group import Progress
from twofold.validate.sample import Sample

NAME = "public"
TITLE = "Public benchmarks of serving"
FILES: tuple[str, ...] = ()

_FIGURES = ("energy.yaml", "mlperf.yaml")
_FITTED = ("mlenergy", "llama")  # source and model family of the figures that energy parameters come from
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
            speed = _speed(result) * figure.get("replicas", 1)
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
    used = quantity == "energy" and figure["source"] == source and figure["model"].startswith(family)
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
