"""Maximum load: output tokens per second when more requests wait than can run, from tables of the package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import yaml

from twofold.devices.catalog import get_device
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan
from twofold.validate.group import Progress
from twofold.validate.sample import Sample

NAME = "maximum-load"
TITLE = "Throughput at maximum load"
FILES: tuple[str, ...] = ()

ROUNDS = 3
"""Requests played, in units of those that run at once: the first fills the cache, the next are measured."""


def wanted(folder: Path) -> list[Path]:
    """The tables of the package; `folder` has nothing for this group."""
    del folder
    here = resources.files("twofold.validate") / "maximum_load"
    return sorted(Path(str(file)) for file in here.iterdir() if file.name.endswith(".yaml"))


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """Tokens per second of every figure."""
    for path in wanted(folder):
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        device = get_device(table["device"])
        for done, (prompt, output, measured) in enumerate(table["figures"], 1):
            yield Sample(
                group=NAME,
                case=f"{path.stem} {table['model']} {table['weights']} {prompt}+{output}",
                quantity="throughput",
                unit="token/s",
                measured=float(measured),
                predicted=throughput(_plan(table, prompt + output), prompt, output),
                device=device.name,
                generation=device.generation,
                precision="fp8" if table["weights"] == "fp8" else "bf16",
                fitted=False,
                label=device.confidence,
                model=table["model"],
                context=prompt + output / 2,
            )
            if progress is not None:
                progress("maximum load", done, len(table["figures"]))


def _plan(table: dict[str, str], length: int) -> Plan:
    engine = {key: table[key] for key in ("serving", "weights", "cache_format")}
    return Plan.from_dict(
        {"model": table["model"], "device": table["device"], "engine": {**engine, "max_context": length + 1}}
    )


def throughput(plan: Plan, prompt: int, output: int) -> float:
    """Output tokens per second of `plan` in the steady state, equal requests waiting at all times."""
    empty = _engine(plan)
    blocks, most = empty.scheduler.blocks, empty.scheduler.config.max_num_seqs
    # A request starts only where its whole output will fit (TensorRT-LLM's GUARANTEED_NO_EVICT).
    at_once = min(most, blocks.num_blocks // blocks.blocks_for(prompt + output))
    limit = plan.engine.model_copy(update={"max_num_seqs": at_once})
    engine = _engine(plan.model_copy(update={"engine": limit}))
    params = SamplingParams(max_tokens=output, ignore_eos=True)
    ended = engine.play((0.0, prompt, params) for _ in range(ROUNDS * at_once))
    moments = sorted(r.last_token_time for r in ended if r.last_token_time is not None)
    # From the end of the first round to that of the one before the last, while the engine is full.
    first, last = at_once - 1, (ROUNDS - 1) * at_once - 1
    return (last - first) * output / (moments[last] - moments[first])


def _engine(plan: Plan) -> Engine:
    device = make_device(plan.device, **plan.parallel.model_dump())
    return build_engine(plan, device, get_spec(plan.model))
