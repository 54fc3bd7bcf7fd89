"""A small random model whose ops are timed one kind at a time, through the same kernels that run real
models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from twofold.devices.base import OpTotals
from twofold.devices.torch_device import TorchDevice
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheSize
from twofold.models.names import tensor_shapes
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.tensors import Checkpoint, StoredTensor
from twofold.ops.attention import Span

BLOCK = 16

NARROW = ModelSpec("probe-narrow", "llama", 4, 64, 4, 2, 16, 96, 64, 1024)
"""So narrow that an op's time is what calling it costs."""

WIDE = ModelSpec("probe-wide", "llama", 2, 768, 12, 4, 64, 2048, 64, 4096)
"""As wide as a small real model."""


def quartile(times: Sequence[float]) -> float:
    """The lower quartile: what a run takes when nothing else disturbs it, without being the luckiest one."""
    return sorted(times)[(len(times) - 1) // 4]


def seconds_of(run: Callable[[], object], budget: float) -> float:
    """Lower quartile of the seconds of `run`, called at least three and at most 200 times within `budget`
    seconds, after one call that warms up."""
    run()
    times: list[float] = []
    end = perf_counter() + budget
    while len(times) < 3 or (len(times) < 200 and perf_counter() < end):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return quartile(times)


class Probe:
    """A model of `spec` with random weights and a cache of `max_keys` tokens on the CPU, fp32."""

    def __init__(self, spec: ModelSpec, max_keys: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def tensor(name: str, shape: tuple[int, ...]) -> StoredTensor:
            data = torch.rand(shape, generator=generator).sub_(0.5).div_(shape[-1] ** 0.5)
            return StoredTensor(name, "f32", shape, data.view(torch.uint8).flatten(), _widen)

        tensors = {name: tensor(name, shape) for name, shape in tensor_shapes(spec).items()}
        self.spec = spec
        self.model = build_model(spec, ModelOptions(block_size=BLOCK), Checkpoint(spec, tensors, None, ""))
        size = CacheSize(-(-max_keys // BLOCK) + 1, BLOCK, 1)
        for cache in self.model.caches:
            cache.allocate(size, torch.device("cpu"))

    def step(self, queries: int, keys: int) -> StepInput:
        """`queries` new tokens of one sequence, the last of which sees `keys` entries."""
        return StepInput(
            [Span(queries, keys)],
            queries,
            1,
            token_ids=torch.zeros(queries, dtype=torch.long),
            positions=torch.arange(keys - queries, keys),
            slots=torch.arange(keys - queries, keys),
            tables=[torch.arange(keys)],
            rows=[0],
            logit_rows=None if queries == 1 else torch.tensor([queries - 1]),
        )

    @torch.inference_mode()
    def by_kind(self, queries: int, keys: int, budget: float) -> dict[str, OpTotals]:
        """Totals by op kind of one step, each op timed; seconds are the lower quartile of those in
        `budget` seconds."""
        device = TorchDevice("cpu", profile=True)
        step = self.step(queries, keys)
        totals: dict[str, OpTotals] = {}
        seconds: dict[str, list[float]] = {}

        def run() -> None:
            nonlocal totals
            device.reset_totals()
            device.begin_step()
            self.model.forward(step, device)
            device.end_step()
            totals = device.totals
            for kind, total in totals.items():
                seconds.setdefault(kind, []).append(total.seconds)

        seconds_of(run, budget)
        for kind, times in seconds.items():
            totals[kind].seconds = quartile(times)
        return totals

    @torch.inference_mode()
    def step_seconds(self, queries: int, keys: int, budget: float) -> float:
        """Seconds of a step without timing its ops, its tensors made anew each time."""
        device = TorchDevice("cpu")

        def run() -> None:
            device.begin_step()
            self.model.forward(self.step(queries, keys), device)
            device.end_step()

        return seconds_of(run, budget)


def _widen(data: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return data.view(torch.float32).view(shape)
