"""A small model of constant weights whose ops are timed kind by kind in a whole engine, through the same
kernels that run real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import torch

from twofold.devices.base import LayerT, OpTotals
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models.gguf_types import widener
from twofold.models.names import tensor_shapes
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.tensors import Checkpoint, StoredTensor
from twofold.ops.attention import Span
from twofold.ops.base import Cost, Op
from twofold.ops.formats import get_format
from twofold.plan import Plan

NARROW = ModelSpec("probe-narrow", "llama", 4, 64, 4, 2, 16, 96, 64, 1024)
"""So narrow that an op's time is what calling it costs."""

SMALL = ModelSpec("probe-small", "llama", 2, 576, 9, 3, 64, 1536, 64, 8192)
"""As wide as a small real model."""

LARGE = ModelSpec("probe-large", "llama", 1, 2048, 32, 8, 64, 5632, 64, 8192)
"""As wide as one of a billion parameters."""

DECODED = 12
"""Steps of a run that are taken, after some that warm up."""

LEARNED = 64
"""Tokens of the text that techniques learn from."""

Totals = dict[str, OpTotals]
"""Work and seconds by kind of op."""


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
    """A tensor of equal bytes (blocks of a packed format, whose scales are then small numbers) or random
    values below 1 / sqrt(cols) (f32)."""
    if fmt == "f32":
        generator = torch.Generator().manual_seed(0)
        data = torch.rand(shape, generator=generator).sub_(0.5).div_(shape[-1] ** 0.5).view(torch.uint8)
    else:
        data = torch.full((get_format(fmt).nbytes(*shape),), 0x11, dtype=torch.uint8)
    return StoredTensor(name, fmt, shape, data.flatten(), widener(fmt))


class Probe:
    """An engine that runs a model of `spec` with at most `max_seqs` sequences of `max_keys` tokens.

    fmt: of the model's matrices (default: q4_0 where the device keeps quantised weights, else f32);
    technique: that is on, as on the command line ("" = none); cache_format: as in a plan; profile: time every
    op; make: what makes the probe's own device, with the kernels and threads of `device`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: CpuDevice,
        *,
        fmt: str | None = None,
        technique: str = "",
        cache_format: str = "auto",
        max_keys: int = 1024,
        max_seqs: int = 1,
        step_tokens: int = 512,
        profile: bool = True,
        make: Callable[..., CpuDevice] = CpuDevice,
    ) -> None:
        fmt = fmt or ("q4_0" if device.stored_weights else "f32")
        block = 1 if fmt == "f32" else get_format(fmt).block
        tensors = {
            name: constant_tensor(name, shape, fmt if len(shape) == 2 and not shape[1] % block else "f32")
            for name, shape in tensor_shapes(spec).items()
        }
        plan = Plan.from_dict(
            {
                "model": spec.name,
                "techniques": [technique] if technique else [],
                "engine": {
                    "max_context": max_keys,
                    "max_num_seqs": max_seqs,
                    "max_num_batched_tokens": max(step_tokens, max_seqs),
                    "prefix_caching": False,
                    "cache_format": cache_format,
                },
            }
        )
        kernels = str(device.settings()["kernels"])
        self.device = make(kernels=kernels, threads=device.threads, profile=profile)
        checkpoint = Checkpoint(spec, tensors, None, "")
        ids = [7 * i % spec.vocab_size for i in range(LEARNED)]
        self.engine = build_engine(plan, self.device, spec, checkpoint, calibration=lambda: ids)
        self.spec = spec

    def ops(self, tokens: int) -> list[Op]:
        """The ops of a step that computes a prompt of `tokens` tokens."""
        device = _OpList()
        device.begin_step()
        device.forward(self.engine.runner.model, StepInput([Span(tokens, tokens)], tokens, 1))
        return device.ops

    def prefill(self, tokens: int, budget: float) -> Totals:
        """One step that computes a prompt of `tokens` tokens, no more than a step has (seconds: lower
        quartile of the prompts that fit into `budget` seconds, at least three, after two that warm up)."""
        for _ in range(2):
            self.play(tokens, 1, 1)
        samples: list[Totals] = []
        end = perf_counter() + budget
        while len(samples) < 3 or perf_counter() < end:
            samples.append(self.play(tokens, 1, 1)[0])
        return _typical(samples)

    def decode(self, keys: int, seqs: int, budget: float) -> Totals:
        """One step that yields a token of each of `seqs` sequences with `keys` entries or a few more (lower
        quartile of the steps that fit into `budget` seconds; at least one run of DECODED)."""
        samples: list[Totals] = []
        end = perf_counter() + budget
        while not samples or perf_counter() < end:
            samples += self.play(keys, seqs, DECODED + 4)[-DECODED:]
        return _typical(samples)

    def step_seconds(self, seqs: int, steps: int) -> float:
        """Seconds of a whole decoding step of `seqs` sequences, everything included (lower quartile)."""
        times: list[float] = []
        self.play(4, seqs, steps + 8, times)
        return quartile(times[-steps:])

    def prefill_seconds(self, tokens: int) -> float:
        """Seconds of a whole step that computes a prompt of `tokens` tokens, once."""
        times: list[float] = []
        self.play(tokens, 1, 1, times)
        return times[0]

    def play(self, prompt: int, seqs: int, outputs: int, times: list[float] | None = None) -> list[Totals]:
        """Totals of each step of `seqs` requests with `prompt` tokens each that yield `outputs`; the
        steps' seconds go to `times`."""
        engine, steps = self.engine, []
        params = SamplingParams(max_tokens=outputs, ignore_eos=True)
        requests = [
            engine.add([(7 * i + 3 * j) % self.spec.vocab_size for i in range(prompt)], params)
            for j in range(seqs)
        ]
        while engine.has_work:
            self.device.reset_totals()
            start = perf_counter()
            engine.step()
            if times is not None:
                times.append(perf_counter() - start)
            steps.append(dict(self.device.totals))
        for request in requests:
            engine.forget(request.id)
        return steps


class _OpList(ModelledDevice):
    """Keeps what it is given to execute."""

    name = "op-list"
    confidence = "calibrated"

    def __init__(self) -> None:
        super().__init__()
        self.memory = {}
        self.ops: list[Op] = []

    def execute(self, op: Op, *args: Any) -> Any:
        """Keep `op`."""
        self.ops.append(op)
        return super().execute(op, *args)

    def charge(self, op: Op, cost: Cost) -> Charge:
        """Nothing."""
        del op, cost
        return Charge(0.0, 0.0, "overhead")

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """All layers."""
        return iter(layers)


def _typical(samples: Sequence[Totals]) -> Totals:
    """The work of one step and the lower quartile of its seconds, by kind."""
    out = dict(samples[-1])
    for kind, total in out.items():
        total.seconds = quartile([sample[kind].seconds for sample in samples])
    return out
