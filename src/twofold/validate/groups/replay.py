"""Replay: recorded requests through the engine with the recorded settings, by their percentiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from twofold.devices.catalog import device_names, get_device
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.errors import nearest
from twofold.measured.requests import PATTERN, Recording, find_recordings, meta_of, read_recording
from twofold.models.catalog import get_spec
from twofold.plan import EnginePlan, ParallelPlan, Plan
from twofold.validate.group import Progress
from twofold.validate.groups.serving import model_of
from twofold.validate.sample import Quantity, Sample

NAME = "replay"
TITLE = "Replay of recorded requests"
FILES = (PATTERN, "requests-*.meta.json")

PERCENTILES = {"p50": 0.5, "p90": 0.9}
_QUANTITIES: tuple[Quantity, ...] = ("ttft", "tpot", "e2e")
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def wanted(folder: Path) -> list[Path]:
    """The recordings and their files of settings."""
    return [path for found in find_recordings(folder) for path in (found, meta_of(found)) if path.is_file()]


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """p50 and p90 of TTFT, TPOT and end-to-end time of every recording."""
    paths = find_recordings(folder)
    for done, path in enumerate(paths, 1):
        recording = read_recording(path)
        yield from _beside(recording)
        if progress is not None:
            progress("recordings", done, len(paths))


def plan_of(recording: Recording) -> Plan:
    """The plan of what served a recording. ValueError for a device that is not in the catalogue."""
    return Plan.from_dict(
        {
            "model": model_of(recording.model),
            "device": device_of(recording.device),
            "precision": _PRECISIONS.get(recording.precision, recording.precision),
            "parallel": ParallelPlan(tp=recording.tp).model_dump(),
            "engine": EnginePlan(
                serving=recording.software if recording.overlapped else f"{recording.software}-sync",
                max_num_seqs=recording.max_num_seqs,
                max_num_batched_tokens=recording.max_num_batched_tokens,
                max_context=recording.max_context,
                block_size=recording.block_size,
                cache_blocks=recording.cache_blocks,
                memory=recording.memory,
            ).model_dump(exclude_unset=True),
        },
        recording.name,
    )


def device_of(title: str) -> str:
    """The device of the catalogue that has that title."""
    titles = {get_device(name).title: name for name in device_names()}
    if title not in titles:
        raise ValueError(f"no device of the catalogue is called {title!r}; {nearest(title, titles)}")
    return titles[title]


def predict(recording: Recording) -> dict[Quantity, list[float]]:
    """Predicted TTFT, TPOT and end-to-end times in seconds, one per request that has them."""
    plan = plan_of(recording)
    device = make_device(plan.device, **plan.parallel.model_dump())
    engine = build_engine(plan, device, get_spec(plan.model))
    items = [
        (r.arrival, r.prompt, SamplingParams(max_tokens=r.output, ignore_eos=True))
        for r in recording.requests
    ]
    found: dict[Quantity, list[float]] = {name: [] for name in _QUANTITIES}
    for r in engine.play(items):
        assert r.first_token_time is not None
        assert r.last_token_time is not None
        found["ttft"].append(r.first_token_time - r.arrival_time)
        found["e2e"].append(r.last_token_time - r.arrival_time)
        if r.num_output_tokens > 1:
            found["tpot"].append((r.last_token_time - r.first_token_time) / (r.num_output_tokens - 1))
    return found


def _beside(recording: Recording) -> Iterator[Sample]:
    predicted = predict(recording)
    measured: dict[Quantity, list[float]] = {
        "ttft": [r.ttft for r in recording.requests],
        "tpot": [r.tpot for r in recording.requests if r.output > 1],
        "e2e": [r.e2e for r in recording.requests],
    }
    device = get_device(device_of(recording.device))
    for quantity in _QUANTITIES:
        for name, share in PERCENTILES.items():
            yield Sample(
                group=NAME,
                case=f"{recording.name} {quantity} {name}",
                quantity=quantity,
                unit="s",
                measured=percentile(measured[quantity], share),
                predicted=percentile(predicted[quantity], share),
                device=device.name,
                generation=device.generation,
                precision=_PRECISIONS.get(recording.precision, recording.precision),
                fitted=False,
                label=device.confidence,
                model=model_of(recording.model),
            )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]
