"""Published tables of GPUs, models and software that no parameter was fitted on.

Four kinds of figures. "batch": tokens/s and device of a batch of equal requests that start together; "first":
milliseconds until the first token of one request; "alone": tokens/s of one sequence decoded from an empty
cache; "load": tokens/s and device while more requests wait than can run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from twofold.devices.catalog import get_device
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.validate.group import Progress
from twofold.validate.groups.maximum_load import throughput
from twofold.validate.sample import Sample

NAME = "public-tables"
TITLE = "Published tables, never fitted on"
FILES: tuple[str, ...] = ()

_MOMENTS = 9
"""Steps of a decode that stand for all of it: its time grows evenly with the context."""
_PRECISIONS = {"dense": "bf16", "mxfp4-experts": "bf16"}

Quantity = Literal["throughput", "ttft", "tpot"]


def wanted(folder: Path) -> list[Path]:
    """The tables of the package; `folder` has nothing for this group."""
    del folder
    return sorted((Path(__file__).parents[1] / "public" / "tables").glob("*.yaml"))


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """One sample per figure."""
    rows = [row for path in wanted(folder) for row in _rows(path)]
    for done, (source, table, figure) in enumerate(rows, 1):
        yield _sample(source, table, figure)
        if progress is not None:
            progress("published tables", done, len(rows))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any], list[float]]]:
    """(name of the file, table with what the file says of all, figure) of every figure."""
    file = yaml.safe_load(path.read_text(encoding="utf-8"))
    for table in file.pop("tables"):
        for figure in table["figures"]:
            yield path.stem, {**file, **table}, figure


def _sample(source: str, table: dict[str, Any], figure: list[float]) -> Sample:
    *load, measured = figure
    kind = table["kind"]
    counts = [int(n) for n in load]
    quantity: Quantity = "throughput"
    seqs, context = 1, float(counts[-1])
    if kind == "batch":
        seqs, prompt, output = counts
        predicted = seqs * output / _play(table, seqs, prompt, output) / table.get("tp", 1)
        context = prompt + output / 2
    elif kind == "first":
        quantity, measured = "ttft", measured / 1e3
        predicted = _play(table, 1, counts[0], 1)
    elif kind == "alone":
        quantity, measured = "tpot", 1.0 / measured
        predicted, context = _decode(table, counts[0]), counts[0] / 2
    else:
        prompt, output = counts
        predicted = throughput(_plan(table, prompt + output), prompt, output) / table.get("tp", 1)
        context = prompt + output / 2
    device = get_device(table["device"])
    words = [source, device.name, table["model"], table["weights"], f"tp{table.get('tp', 1)}", kind]
    return Sample(
        group=NAME,
        case=" ".join([*words, "+".join(str(n) for n in counts)]),
        quantity=quantity,
        unit="token/s" if quantity == "throughput" else "s",
        measured=measured,
        predicted=predicted,
        device=device.name,
        generation=device.generation,
        precision=_PRECISIONS.get(table["weights"], table["weights"]),
        fitted=False,
        label=device.confidence,
        model=table["model"],
        tokens=None if kind == "load" else seqs,
        context=context,
    )


def _plan(table: dict[str, Any], length: int, **limits: int) -> Plan:
    engine = {key: table[key] for key in ("serving", "weights", "cache_format") if key in table}
    return Plan.from_dict(
        {
            "model": table["model"],
            "device": table["device"],
            "parallel": {"tp": table.get("tp", 1)},
            "engine": {**engine, "max_context": length + 1, **limits},
        }
    )


def _play(table: dict[str, Any], seqs: int, prompt: int, output: int) -> float:
    """Seconds until all of `seqs` equal requests that start together have ended."""
    plan = _plan(table, prompt + output, max_num_seqs=seqs)
    device = make_device(plan.device, **plan.parallel.model_dump())
    engine = build_engine(plan, device, get_spec(plan.model))
    params = SamplingParams(max_tokens=output, ignore_eos=True)
    ended = engine.play((0.0, prompt, params) for _ in range(seqs))
    return max(r.last_token_time for r in ended if r.last_token_time is not None)


def _decode(table: dict[str, Any], output: int) -> float:
    """Mean seconds of the steps that decode `output` tokens of one sequence."""
    steps = StepPredictor(_plan(table, output, max_num_seqs=1), table["device"])
    contexts = [1 + round(i * (output - 1) / (_MOMENTS - 1)) for i in range(_MOMENTS)]
    return sum(steps.step([Span(1, context)]).seconds for context in contexts) / _MOMENTS
