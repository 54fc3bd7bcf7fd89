"""What the user measured on this machine (`run`, `compare`, `bench`) beside predictions on its calibration:
the same plan, played on `this-cpu` with what the run measured of data-dependent quantities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from twofold.devices.catalog import THIS_CPU, get_device, this_cpu_path
from twofold.jobs.bench import Test, bench_plan
from twofold.jobs.bench_results import bench_results, test_of
from twofold.jobs.compare import as_run
from twofold.jobs.intervals import precision_of
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.report.host import Host
from twofold.report.schema import Result
from twofold.report.store import Store, Stored
from twofold.validate.group import Progress
from twofold.validate.sample import Quantity, Sample

NAME = "recorded"
TITLE = "This CPU, calibrated"
FILES = ("results of `twofold run`, `compare` or `bench` on this machine", "its `twofold calibrate`")

_MEASURED = "cpu"


class _Checked(NamedTuple):
    """A figure that is held against its measurement."""

    field: Literal["ttft", "tpot", "e2e", "tokens_per_s"]
    quantity: Quantity
    unit: str


_CHECKED = (
    _Checked("ttft", "ttft", "s"),
    _Checked("tpot", "tpot", "s"),
    _Checked("e2e", "e2e", "s"),
    _Checked("tokens_per_s", "throughput", "token/s"),
)


def wanted(folder: Path) -> list[Path]:
    """The results database and the calibration, where there is something to compare; `folder` has nothing for
    this group."""
    del folder
    if not this_cpu_path().is_file() or not _recorded():
        return []
    return [Store().path, this_cpu_path()]


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """Latencies, throughput and memory of the newest result of each plan."""
    del folder
    stored = _recorded()
    for number, found in enumerate(stored):
        if progress is not None:
            progress("recorded results", number, len(stored))
        predicted = _predict(found.id)
        if isinstance(predicted, Result):
            yield from _samples(found, predicted)


def left_out(folder: Path) -> dict[str, int]:
    """Why results cannot be predicted again, and how many each reason concerns."""
    del folder
    reasons = [why for found in _recorded() if isinstance(why := _predict(found.id), str)]
    old = sum(not stored.result.plan for stored in _here())
    return {**Counter(reasons), **({"recorded before plans were kept": old} if old else {})}


def _here() -> list[Stored]:
    """Every run on a machine like this one, newest first."""
    here = Host.here()
    found = Store().find(kind="run", device=_MEASURED)
    hosts = ((stored, stored.result.host) for stored in found)
    return [stored for stored, host in hosts if (host.processor, host.cores) == (here.processor, here.cores)]


def _recorded() -> list[Stored]:
    """The newest run of each plan, oldest first."""
    newest: dict[str, Stored] = {}
    for stored in _here():
        if stored.result.plan:
            newest.setdefault(repr((stored.result.plan, stored.result.label)), stored)
    return list(newest.values())[::-1]


@cache
def _predict(number: int) -> Result | str:
    """The prediction of run `number`, or why there is none: a model or a file of its plan is gone."""
    measured = Store().get(number)
    plan = as_run(Plan.from_dict(measured.plan, "recorded plan"), measured)
    test = test_of(measured)
    try:
        if test is not None:
            return _bench(plan, test)
        behaviour = {k: v.value for k, v in measured.behaviour.items() if not isinstance(v.value, list)}
        return predict_plan(plan, THIS_CPU, recorded=behaviour)
    except ValueError as error:
        return str(error)


def _bench(plan: Plan, test: Test) -> Result:
    """The prediction of a test of `bench`."""
    here = plan.model_copy(update={"device": THIS_CPU})
    prompts, outputs = ((test.tokens,), ()) if test.kind == "pp" else ((), (test.tokens,))
    found = bench_plan(here, prompts=prompts, outputs=outputs, depths=(test.depth,), repeats=1)
    (result,) = bench_results(found)
    return result


def _samples(stored: Stored, predicted: Result) -> Iterator[Sample]:
    measured = stored.result
    load = measured.workload

    def sample(quantity: Quantity, unit: str, seen: float, told: float) -> Sample:
        return Sample(
            group=NAME,
            case=f"{stored.id} {measured.model} {measured.label}, {load.summary}",
            quantity=quantity,
            unit=unit,
            measured=seen,
            predicted=told,
            device=THIS_CPU,
            generation=get_device(THIS_CPU).generation,
            precision=precision_of(measured),
            fitted=False,
            label=predicted.confidence,
            model=f"{measured.model} {measured.label}",
            tokens=load.concurrency,
            context=load.prompt_tokens + load.output_tokens,
        )

    for name, quantity, unit in _CHECKED:
        seen, told = measured.figure(name), predicted.figure(name)
        if seen is not None and told is not None:
            yield sample(quantity, unit, seen.mid, told.mid)
    test = test_of(measured)
    if (
        test is not None and test.kind == "pp" and test.depth
    ):  # a prompt after context: seconds for its tokens
        seen, told = measured.prefill_tokens_per_s, predicted.prefill_tokens_per_s
        assert seen is not None, f"result {stored.id} is a test of prompts"
        assert told is not None, f"result {stored.id} was predicted as another test"
        yield sample("ttft", "s", test.tokens / seen.mid, test.tokens / told.mid)
    unaccounted = measured.memory.unaccounted
    if unaccounted is not None:
        counted = measured.memory.total.mid
        yield sample("memory", "B", counted + unaccounted.mid, predicted.memory.total.mid)
