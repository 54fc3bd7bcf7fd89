"""One sequence decoded at a time by a compiled model, without host time: gpt-fast's public figures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from twofold.devices.catalog import get_device
from twofold.devices.cluster import Cluster
from twofold.devices.schema import DeviceFile
from twofold.jobs.steps import StepPredictor
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.validate.group import Progress
from twofold.validate.sample import Sample

NAME = "single-stream"
TITLE = "One sequence, compiled decode (gpt-fast)"
FILES: tuple[str, ...] = ()


def wanted(folder: Path) -> list[Path]:
    """The file of the package; `folder` has nothing for this group."""
    del folder
    return [Path(str(_file()))]


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """Seconds per token of every figure. How fast packed weights are widened comes from those in four
    bits."""
    del folder
    table = _table()
    for number, figure in enumerate(table["figures"]):
        if progress is not None:
            progress("single streams", number, len(table["figures"]))
        yield _sample(table, figure)


def _file() -> Any:
    return resources.files("twofold.validate") / "public" / "single_stream" / "gpt_fast.yaml"


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_file().read_text(encoding="utf-8"))
    return table


def _sample(table: dict[str, Any], figure: dict[str, Any]) -> Sample:
    device = _limited(table["device"], table["power"])
    cluster = Cluster(device, tp=figure["tp"])
    plan = Plan.from_dict(
        {
            "model": figure["model"],
            "device": table["device"],
            "parallel": {"tp": figure["tp"]},
            "engine": {"weights": figure["weights"], "max_num_seqs": 1},
        },
        figure["name"],
    )
    steps = StepPredictor(plan, cluster.rank())
    prompt, output = table["prompt"], table["output"]
    seconds = steps.step([Span(prompt, prompt)]).seconds
    seconds += sum(steps.step([Span(1, prompt + done)]).seconds for done in range(1, output))
    return Sample(
        group=NAME,
        case=figure["name"],
        quantity="tpot",
        unit="s",
        measured=1.0 / figure["tokens_per_s"],
        predicted=seconds / output,
        device=table["device"],
        generation=device.generation,
        precision="bf16" if figure["weights"] == "dense" else figure["weights"],
        fitted="int4" in figure["weights"],
        label=device.confidence,
        model=figure["model"],
        tokens=1,
        context=prompt + output,
    )


def _limited(name: str, watts: float) -> DeviceFile:
    """The device held to that power, as in the measurement."""
    file = get_device(name)
    limit = file.power.limit.model_copy(update={"value": float(watts)})
    return file.model_copy(update={"power": file.power.model_copy(update={"limit": limit})})
