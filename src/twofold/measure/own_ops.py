"""What ops take that techniques bring with them, each fitted as a sum of what it counts.

A technique's own attention is Python between kernels, native or torch's: what it takes follows from how often
it calls them and from how many elements these go through. Both are in the op: sequences, FLOP, elementwise
operations and bytes. The factors are measured here, in engines that run a small model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from twofold.devices.base import OpTotals
from twofold.devices.calibration import OpCost, own_name
from twofold.devices.cpu_device import CpuDevice
from twofold.measure.device_document import Measured
from twofold.measure.probe import SMALL, Probe, quartile
from twofold.models.step import StepInput
from twofold.ops.base import Op
from twofold.ops.linear import Linear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twofold.devices.base import Model
    from twofold.models.cache import CacheLayer

TECHNIQUES = (
    "alisa:p1=48,p2=2048",
    "bfp-outlier-reorder",
    "elastic-cache",
    "flashattention",
    "flashattention-2",
    "h2o",
    "had",
    "lean-attention",
    "llm-in-a-flash",
    "lut-gemm",
    "minference:ratio=0.2",
    "retrievalattention:initial=16,recent=32,top_k=32,search_list=32,degree=12,build_list=32,training_queries=64,query_neighbours=32",
    "snapkv:window_size=32,max_capacity_prompt=96",
    "sparf:compression=4",
    "spatten",
    "two-pass-softmax",
    "zipvl",
)
"""Techniques with ops of their own, with parameters by which these ops occur in short contexts."""

WARM = (1, 64)
PLAYS = ((1, 128), (4, 128), (1, 256), (2, 512))
"""Sequences and prompt tokens of what is played."""
OUTPUTS, QUICK_OUTPUTS = 12, 5


@dataclass(slots=True)
class Sample:
    """One execution of an op, and the seconds that it took."""

    op: Op
    seconds: float


class OpClock(CpuDevice):
    """A device that times every op by itself and records no steps. What lies between the ops of one layer's
    attention, or of one `whole`, is shared out among them. samples: since they were taken last."""

    def __init__(self, **options: Any) -> None:
        self.samples: list[Sample] = []
        super().__init__(**options)

    def execute(self, op: Op, *args: Any) -> Any:
        """As the device `cpu`."""
        start = time.perf_counter()
        out = super().execute(op, *args)
        self.samples.append(Sample(op, time.perf_counter() - start))
        return out

    def attend(self, cache: CacheLayer, step: StepInput, q: Any, k: Any, v: Any, *inputs: Any) -> Any:
        """As the device `cpu`."""
        with self._shared():
            return super().attend(cache, step, q, k, v, *inputs)

    def whole(self, function: Callable[[], Any]) -> Any:
        """As the device `cpu`."""
        with self._shared():
            return function()

    @contextmanager
    def _shared(self) -> Iterator[None]:
        first, start = len(self.samples), time.perf_counter()
        yield
        taken, mine = time.perf_counter() - start, self.samples[first:]
        inside = sum(sample.seconds for sample in mine)
        for sample in mine:
            sample.seconds *= taken / inside

    def _records(self, model: Model, step: StepInput) -> bool:
        return False

    def taken(self) -> list[Sample]:
        """The samples, which are forgotten."""
        found, self.samples = self.samples, []
        return found


def measure_own_ops(m: Measured, quick: bool) -> None:
    """Every op that a technique executes beside those of a plain model and products, whose formats are
    measured as such.

    Native kernels only: without them all ops of a device are torch's."""
    if m.device.context is None:
        return
    usual = {own_name(sample.op) for sample in _played(m.device, "", quick)}
    found: dict[str, list[Sample]] = {}
    for technique in TECHNIQUES:
        for sample in _played(m.device, technique, quick):
            name = own_name(sample.op)
            product = isinstance(sample.op, Linear) and sample.op.cost().flop
            if name not in usual and not product:
                found.setdefault(name, []).append(sample)
    m.own |= {name: fitted(samples) for name, samples in found.items()}


def _played(device: CpuDevice, technique: str, quick: bool) -> list[Sample]:
    """Samples of all plays under `technique`, after one that warms up. The model's weights differ from each
    other, so that what depends on data is no special case."""
    seqs, longest = max(s for s, _ in PLAYS), max(tokens for _, tokens in PLAYS)
    probe = Probe(
        SMALL,
        device,
        fmt="f32",
        technique=technique,
        max_keys=longest + 2 * OUTPUTS,
        max_seqs=seqs,
        step_tokens=longest,
        make=OpClock,
    )
    assert isinstance(probe.device, OpClock)
    probe.play(WARM[1], WARM[0], OUTPUTS)
    probe.device.taken()
    for count, tokens in PLAYS:
        probe.play(tokens, count, QUICK_OUTPUTS if quick else OUTPUTS)
    return probe.device.taken()


def fitted(samples: Sequence[Sample]) -> OpCost:
    """The cost that is nearest to `samples`. Of those that count the same, the lower quartile of the seconds
    stands for all."""
    alike: dict[tuple[float, ...], list[float]] = {}
    for sample in samples:
        alike.setdefault(OpCost.counts(sample.op, sample.op.cost()), []).append(sample.seconds)
    return _nearest(list(alike), [quartile(times) for times in alike.values()])


def fitted_totals(totals: Sequence[OpTotals]) -> OpCost:
    """The same of ops that are no attention, given what some steps took for them."""
    each = [t.each() for t in totals]
    return _nearest(
        [(1.0, 0.0, t.flop, t.vector_flop, t.bytes_moved) for t in each], [t.seconds for t in each]
    )


def _nearest(counts: Sequence[tuple[float, ...]], seconds: Sequence[float]) -> OpCost:
    """The factors by which `counts` come nearest to `seconds` in relative terms, none of them negative."""
    relative = np.array(counts) / np.array(seconds)[:, None]
    factors = least_squares(relative, np.ones(len(seconds)))
    return OpCost(**dict(zip(OpCost.model_fields, map(float, factors), strict=True)))


def least_squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x >= 0 that makes |a x - b| least: of the solutions with some of the columns alone, the best that has
    no negative part. For a handful of columns."""
    scale = np.abs(a).max(0)
    scale[scale == 0] = 1.0
    best, least = np.zeros(a.shape[1]), float(b @ b)
    columns: Iterable[tuple[int, ...]] = (
        some for size in range(1, a.shape[1] + 1) for some in combinations(range(a.shape[1]), size)
    )
    for some in map(list, columns):
        x, *_ = np.linalg.lstsq(a[:, some] / scale[some], b, rcond=None)
        rest = float(((a[:, some] / scale[some]) @ x - b) @ ((a[:, some] / scale[some]) @ x - b))
        if (x >= 0).all() and rest < least * (1 - 1e-9):
            best, least = np.zeros(a.shape[1]), rest
            best[some] = x / scale[some]
    return best
