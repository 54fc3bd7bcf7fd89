"""Which devices meet a requirement, how many of them it takes, and what falls short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from twofold.analysis.requirements import Phase, Requirement, plan_for, require
from twofold.analysis.times import decode_seconds, prefill_seconds
from twofold.analysis.trust import Trust
from twofold.analysis.use_cases import UseCase
from twofold.devices.catalog import get_device
from twofold.devices.cluster import Cluster
from twofold.devices.precision import WIDER
from twofold.devices.registry import is_machine
from twofold.devices.schema import DeviceFile
from twofold.jobs.steps import StepPredictor
from twofold.models.parallel import Parallel
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.report.schema import Figure

RESOURCES = ("memory", "compute", "bandwidth", "link", "latency")


@dataclass(frozen=True, slots=True)
class Trial:
    """`count` devices held against what they must offer.

    loads: what is required over what the datasheet offers, by resource, above 1 where it falls short; ttft,
    tpot, confidence: predicted, None where a load above 1 has ruled the devices out already; refused: why
    they cannot serve the model at all.
    """

    count: int
    loads: dict[str, float] = field(default_factory=dict)
    ttft: Figure | None = None
    tpot: Figure | None = None
    confidence: str = ""
    refused: str = ""

    def short(self, use_case: UseCase) -> dict[str, float]:
        """Everything that falls short, with how many times as much is needed."""
        found = {name: load for name, load in self.loads.items() if load > 1}
        for name, figure, limit in self._times(use_case):
            if figure.mid > limit:
                found[name] = figure.mid / limit
        return found

    def doubtful(self, use_case: UseCase) -> list[str]:
        """The predicted times that keep their objective, but not at the high end of their interval."""
        return [name for name, figure, limit in self._times(use_case) if figure.mid <= limit < figure.high]

    def _times(self, use_case: UseCase) -> Iterator[tuple[str, Figure, float]]:
        pairs = (("TTFT", self.ttft, use_case.ttft), ("TPOT", self.tpot, use_case.tpot))
        for name, figure, limit in pairs:
            if figure is not None:
                yield name, figure, limit

    def meets(self, use_case: UseCase) -> bool:
        """Whether every condition holds, the predicted times among them."""
        return not self.refused and self.tpot is not None and not self.short(use_case)


@dataclass(frozen=True, slots=True)
class Suitability:
    """What was tried of one device, in ascending numbers of them."""

    device: str
    trials: tuple[Trial, ...]

    def enough(self, use_case: UseCase) -> Trial | None:
        """The smallest number that meets everything, or None."""
        return next((trial for trial in self.trials if trial.meets(use_case)), None)

    def first(self, resource: str) -> int | None:
        """The smallest number of which each offers enough of `resource`, or None."""
        return next((t.count for t in self.trials if t.loads.get(resource, 2.0) <= 1), None)

    def closest(self, use_case: UseCase) -> Trial:
        """The number of devices that falls short the least; the first where none can serve the model."""
        able = [trial for trial in self.trials if not trial.refused]
        if not able:
            return self.trials[0]
        return min(able, key=lambda trial: (max(trial.short(use_case).values(), default=1.0), trial.count))


class Finder:
    """Tries devices for one use case. cuts: the parallelism by number of devices; what is counted for one is
    counted once for all devices."""

    def __init__(
        self,
        plan: Plan,
        use_case: UseCase,
        batch: int,
        spec: ModelSpec,
        stored: Checkpoint | None = None,
        *,
        most: int = 8,
    ) -> None:
        self._plan, self._use_case, self._batch = plan, use_case, batch
        self._spec, self._stored = spec, stored
        self._plans = {cut.tp * cut.pp: _cut(plan, cut) for cut in _cuts(plan, spec, most)}
        self._known: dict[int, Requirement] = {}

    def requirement(self, count: int) -> Requirement:
        """What each of `count` devices must offer."""
        if count not in self._known:
            plan = self._plans[count]
            self._known[count] = require(plan, self._use_case, self._batch, self._spec, self._stored)
        return self._known[count]

    def suit(self, device: str, progress: Callable[[str], None] = lambda _: None) -> Suitability:
        """Try `device` in growing numbers until everything is met. ValueError for a device that has no
        datasheet."""
        if is_machine(device):
            raise ValueError(
                f"{device} maps ops in its own way and has no peaks to compare with; `twofold predict "
                "--device "
                f"{device}` says what it does"
            )
        file = get_device(device)
        trials = []
        for count in self._plans:
            progress(f"{device} × {count}")
            trials.append(self._try(file, device, count))
            if trials[-1].meets(self._use_case):
                break
        return Suitability(file.name, tuple(trials))

    def _try(self, file: DeviceFile, device: str, count: int) -> Trial:
        plan = self._plans[count]
        cut = plan.parallel
        try:
            Cluster(file, tp=cut.tp, pp=cut.pp)
        except ValueError as error:
            return Trial(count, refused=str(error))
        need = self.requirement(count)
        loads = _loads(need, file, plan.engine.memory_share)
        if any(load > 1 for load in loads.values()):
            return Trial(count, loads)
        sized = plan_for(plan, self._use_case, self._batch, self._spec)
        try:
            predictor = StepPredictor(sized, device, spec=self._spec, stored=self._stored)
        except ValueError as error:
            return Trial(count, loads, refused=str(error))
        use_case = self._use_case
        seqs, longest = self._batch * use_case.beams, use_case.prompt + use_case.output
        trust = Trust(predictor, sized, seqs, longest)
        return Trial(
            count,
            loads,
            trust.time("ttft", prefill_seconds(predictor, use_case.prompt, self._batch)),
            trust.time("tpot", decode_seconds(predictor, longest, seqs)),
            trust.confidence,
        )


def _cuts(plan: Plan, spec: ModelSpec, most: int) -> Iterator[Parallel]:
    """The plan's own parallelism where it has any, else tensor parallelism over 1, 2, 4 … devices."""
    cut = plan.parallel
    if cut.tp * cut.pp > 1:
        yield Parallel(cut.tp, cut.pp, 1, min(cut.ep, cut.tp))
        return
    tp = 1
    while tp <= most:
        parallel = Parallel(tp)
        try:
            parallel.check(spec)
        except ValueError:
            break
        yield parallel
        tp *= 2


def _cut(plan: Plan, cut: Parallel) -> Plan:
    values = {"tp": cut.tp, "pp": cut.pp, "dp": 1, "ep": cut.ep}
    return plan.model_copy(update={"parallel": plan.parallel.model_copy(update=values)})


def _loads(need: Requirement, file: DeviceFile, share: float) -> dict[str, float]:
    loads = {
        "memory": need.held.total / (file.memory.capacity.value * share),
        "compute": max(_compute_load(phase, file) for phase in need.phases),
        "bandwidth": need.bandwidth / _bandwidth(need, file),
    }
    if need.message_seconds is not None:
        cluster = file.link or file.network
        assert cluster is not None
        if file.link is not None and need.devices > int(file.link.devices.value) and file.network is not None:
            cluster = file.network
        loads["link"] = need.link_bandwidth / cluster.bandwidth.value
        loads["latency"] = cluster.latency.value / need.message_seconds
    return loads


def _compute_load(phase: Phase, file: DeviceFile) -> float:
    """Seconds of the matrix FLOP at peak over the seconds there are."""
    seconds = 0.0
    for precision, flop in phase.work.flop.items():
        used = next((p for p in (precision, *WIDER[precision]) if p in file.matmul), None)
        seconds += flop / (file.matmul[used].value if used else file.vector.value)
    return seconds / phase.seconds


def _bandwidth(need: Requirement, file: DeviceFile) -> float:
    """Bytes/s at which weights and cache can be read: from the last cache where they fit into it."""
    cache = file.cache
    if cache and cache.bandwidth and need.held.weights + need.held.cache <= cache.capacity.value:
        return cache.bandwidth.value
    return file.memory.bandwidth.value
