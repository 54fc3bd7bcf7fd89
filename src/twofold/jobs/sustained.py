"""`measure`: a model kept busy for a while on this machine, headless, with what the machine tells meanwhile
of its memory, energy, temperature and clocks.

After MELT (Laskaridis et al., "MELTing point: Mobile evaluation of language transformers", arXiv:2403.12844),
which drives phones and boards over a cable; here the engine measures the machine that it runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

from twofold.devices.catalog import THIS_CPU, this_cpu_path
from twofold.devices.registry import is_real
from twofold.engine.build import Progress
from twofold.jobs.predict import label_of, predict_plan
from twofold.jobs.run import load_engine, warm_up
from twofold.measure.sampler import Sample, Sampler
from twofold.measure.sensors import find_energy_meter, find_sensors
from twofold.models.find import find_checkpoint
from twofold.plan import Plan
from twofold.workloads.workload import Item, make_workload

IDLE_SECONDS = 2.0
"""How long the machine is watched before it is given work, for its power at rest."""

WINDOWS = 60
"""Into how many pieces the run is cut for a course over time, at most."""


class Window(NamedTuple):
    """Output tokens/s from `start` to `end` (seconds after the first request)."""

    start: float
    end: float
    tokens_per_s: float


@dataclass(frozen=True)
class Energy:
    """J per output token, and where they come from. idle_watts: power before the run; None where no meter was
    read. estimated: whether a prediction stands in for a meter."""

    joules_per_token: float
    source: str
    estimated: bool
    idle_watts: float | None = None
    mean_watts: float | None = None


@dataclass(frozen=True)
class Sustained:
    """A sustained run. throttled: tokens/s in its last quarter over those in its first."""

    model: str
    device: str
    techniques: str
    seconds: float
    requests: int
    output_tokens: int
    windows: list[Window]
    samples: list[Sample]
    energy: Energy | None
    missing: dict[str, str]

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second over the whole run."""
        return self.output_tokens / self.seconds

    @property
    def throttled(self) -> float | None:
        """1 where speed holds, below where it falls; None for runs of fewer than four windows, or that yield
        nothing in their first quarter."""
        quarter = len(self.windows) // 4
        first = sum(w.tokens_per_s for w in self.windows[:quarter])
        last = sum(w.tokens_per_s for w in self.windows[len(self.windows) - quarter :])
        return last / first if first else None

    @property
    def peak_resident(self) -> int | None:
        """Most bytes of the process in memory."""
        return max((s.resident for s in self.samples if s.resident is not None), default=None)

    def record(self) -> dict[str, Any]:
        """Everything for JSON."""
        energy = None
        if self.energy is not None:
            energy = {k: v for k, v in vars(self.energy).items() if v is not None}
        return {
            "model": self.model,
            "device": self.device,
            "techniques": self.techniques,
            "seconds": self.seconds,
            "requests": self.requests,
            "output_tokens": self.output_tokens,
            "tokens_per_s": self.tokens_per_s,
            "last_quarter_over_first": self.throttled,
            "peak_resident_bytes": self.peak_resident,
            "energy": energy,
            "windows": [window._asdict() for window in self.windows],
            "samples": [sample._asdict() for sample in self.samples],
            "missing": self.missing,
        }


def measure_sustained(
    plan: Plan,
    *,
    seconds: float | None = None,
    requests: int | None = None,
    interval: float = 1.0,
    root: Path = Path("/"),
    clock: Callable[[], float] = perf_counter,
    progress: Progress | None = None,
) -> Sustained:
    """Keep the plan's requests coming on its device for `seconds`, or until `requests` have ended; the
    workload begins anew when it is through. Sensors are read every `interval` seconds below `root`.

    ValueError where the plan names a modelled device or neither limit is given.
    """
    if not is_real(plan.device):
        raise ValueError(
            f"{plan.device!r} is a modelled device: use `predict`; `measure` needs 'cpu' or 'cuda'"
        )
    if (seconds is None) == (requests is None):
        raise ValueError("give either a duration or a number of requests")
    if (seconds or requests or 0) <= 0 or interval <= 0:
        raise ValueError("the duration, the number of requests and the interval must be above 0")
    checkpoint = find_checkpoint(plan.model)
    engine = load_engine(plan, checkpoint, progress=progress)
    workload = make_workload(plan.workload, checkpoint.tokenizer, real=True, vocab=checkpoint.spec.vocab_size)
    meter, why = find_energy_meter(clock(), root)
    sensors = find_sensors(root)
    idle = None
    if meter is not None:
        with Sampler(meter, sensors, interval) as resting:
            sleep(IDLE_SECONDS)
        idle = (resting.joules or 0.0) / resting.samples[-1].seconds
    warm_up(engine, workload)
    start = clock()
    begun = ended = 0

    def items() -> Iterator[Item]:
        nonlocal begun
        while (seconds is not None and clock() - start < seconds) or (
            requests is not None and begun < requests
        ):
            yield workload.items[begun % len(workload.items)]._replace(time=0.0)
            begun += 1

    def count(_: object) -> None:
        nonlocal ended
        ended += 1
        if progress is not None:
            done = ended if requests is not None else int(clock() - start)
            progress("measuring", done, requests if requests is not None else int(seconds or 0))

    before = engine.clock.now()
    with Sampler(meter, sensors, interval) as sampler:
        done = engine.play(items(), concurrency=workload.concurrency or 1, on_end=count, record_times=True)
    engine.check_techniques()
    engine.close()
    times = sorted(t - before for request in done for t in request.token_times or ())
    taken = times[-1]
    missing = dict(sensors.missing)
    energy: Energy | None = None
    if sampler.joules is not None and meter is not None:
        energy = Energy(
            sampler.joules / len(times), meter.name, False, idle, sampler.joules / sampler.samples[-1].seconds
        )
    else:
        missing["energy"] = why
        try:
            energy = _estimate(plan)
        except ValueError as error:  # a calibration of an older version, say
            missing["energy estimate"] = str(error)
    return Sustained(
        model=plan.model,
        device=plan.device,
        techniques=label_of(plan),
        seconds=taken,
        requests=len(done),
        output_tokens=len(times),
        windows=_windows(times, taken),
        samples=sampler.samples,
        energy=energy,
        missing=missing,
    )


def _windows(times: list[float], seconds: float) -> list[Window]:
    """Tokens/s in equal pieces of the run, each long enough for a few tokens."""
    count = max(1, min(WINDOWS, len(times) // 8))
    width = seconds / count
    tokens = [0] * count
    for time in times:
        tokens[min(count - 1, int(time / width))] += 1
    return [Window(i * width, (i + 1) * width, n / width) for i, n in enumerate(tokens)]


def _estimate(plan: Plan) -> Energy | None:
    """What the prediction for this processor says, where it was calibrated; no meter was read."""
    if plan.device != "cpu" or not this_cpu_path().is_file():
        return None
    energy = predict_plan(plan, THIS_CPU).energy_per_token
    return None if energy is None else Energy(energy.mid, f"prediction for {THIS_CPU}, assumed power", True)
