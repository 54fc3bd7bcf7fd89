"""A small model of constant weights whose ops are timed one kind at a time, through the same kernels that run
real models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from twofold.devices.base import OpTotals
from twofold.devices.cpu_device import CpuDevice
from twofold.engine.build import build_engine
from twofold.engine.cache_format import cache_scheme
from twofold.engine.request import SamplingParams
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheSize
from twofold.models.gguf_types import widener
from twofold.models.names import tensor_shapes
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint, StoredTensor
from twofold.ops.attention import Span
from twofold.ops.formats import get_format
from twofold.plan import Plan

BLOCK = 16

NARROW = ModelSpec("probe-narrow", "llama", 4, 64, 4, 2, 16, 96, 64, 1024)
"""So narrow that an op's time is what calling it costs."""

WIDE = ModelSpec("probe-wide", "llama", 2, 768, 12, 4, 64, 2048, 64, 4096)
"""As wide as a small real model."""

STEP_TOKENS = 48
"""Tokens that are generated to see what the engine does besides its ops."""


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


def constant_tensor(name: str, shape: tuple[int, ...], fmt: str) -> StoredTensor:
    """A tensor of equal values, about 0.01 (blocks of q4_0) or random below 1 / sqrt(cols) (f32)."""
    if fmt == "f32":
        generator = torch.Generator().manual_seed(0)
        data = torch.rand(shape, generator=generator).sub_(0.5).div_(shape[-1] ** 0.5).view(torch.uint8)
    else:
        assert fmt == "q4_0"
        layout = get_format(fmt)
        count = shape[0] * shape[1] // layout.block
        data = torch.full((count, layout.row_bytes(layout.block)), 0x99, dtype=torch.uint8)
        data[:, :2] = torch.tensor([0.01]).half().view(torch.uint8)
    return StoredTensor(name, fmt, shape, data.flatten(), widener(fmt))


class Probe:
    """A model of `spec` with a cache of `max_keys` tokens, as `device` holds both by default."""

    def __init__(self, spec: ModelSpec, max_keys: int, device: CpuDevice) -> None:
        fmt = "q4_0" if device.stored_weights else "f32"
        tensors = {
            name: constant_tensor(name, shape, fmt if len(shape) == 2 and not shape[1] % 32 else "f32")
            for name, shape in tensor_shapes(spec).items()
        }
        self.spec, self.device = spec, device
        self.checkpoint = Checkpoint(spec, tensors, None, "")
        stored = StoredWeights(self.checkpoint, load=True) if device.stored_weights else None
        cache = cache_scheme(device.cache_format or "fp32")
        options = ModelOptions(block_size=BLOCK, cache=cache, stored=stored)
        self.model = build_model(spec, options, self.checkpoint)
        size = CacheSize(-(-max_keys // BLOCK) + 1, BLOCK, 1)
        for layer in self.model.caches:
            layer.allocate(size, torch.device("cpu"))

    def step(self, queries: int, keys: int) -> StepInput:
        """`queries` new tokens of one sequence, the last of which sees `keys` entries."""
        return StepInput(
            [Span(queries, keys)],
            queries,
            1,
            token_ids=torch.zeros(queries, dtype=torch.long),
            positions=torch.arange(keys - queries, keys),
            slots=torch.arange(keys - queries, keys),
            rows=[0],
            logit_rows=None if queries == 1 else torch.tensor([queries - 1]),
            block_tables=[list(range(-(-keys // BLOCK)))],
            block_size=BLOCK,
        )

    @torch.inference_mode()
    def by_kind(self, queries: int, keys: int, budget: float) -> dict[str, OpTotals]:
        """Totals by op kind of one step, each op timed; seconds are the lower quartile of those in
        `budget` seconds."""
        device = self.device
        assert device.profile
        step = self.step(queries, keys)
        totals: dict[str, OpTotals] = {}
        seconds: dict[str, list[float]] = {}

        def run() -> None:
            nonlocal totals
            device.reset_totals()
            device.begin_step()
            device.forward(self.model, step)
            device.end_step()
            totals = device.totals
            for kind, total in totals.items():
                seconds.setdefault(kind, []).append(total.seconds)

        seconds_of(run, budget)
        for kind, times in seconds.items():
            totals[kind].seconds = quartile(times)
        return totals

    def token_seconds(self, repeats: int) -> float:
        """Seconds per generated token of a whole engine that runs the model (lower quartile of `repeats`
        outputs)."""
        plan = Plan.from_dict({"model": self.spec.name, "engine": {"max_context": 2 * STEP_TOKENS}})
        device = CpuDevice(threads=self.device.threads if self.device.context is not None else None)
        engine = build_engine(plan, device, self.spec, self.checkpoint)
        times = []
        for _ in range(repeats + 1):
            request = engine.add([1, 2, 3], SamplingParams(max_tokens=STEP_TOKENS, ignore_eos=True))
            while not request.is_finished:
                engine.step()
            assert request.first_token_time is not None
            assert request.last_token_time is not None
            times.append((request.last_token_time - request.first_token_time) / (STEP_TOKENS - 1))
            engine.forget(request.id)
        return quartile(times[1:])
