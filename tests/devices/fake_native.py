"""What `CpuDevice` and the recorder ask of the native extension, in Python: streams that keep closures
instead of instructions, and kernels for a few ops. It shows that recording is right without a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from twofold.devices.cpu_device import CpuDevice
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.cpu.recorded import tensors_of
from twofold.kernels.registry import REFERENCE, Kernel
from twofold.ops.base import Op
from twofold.ops.elementwise import Activate, AddNorm, Norm, RotaryQKV

Instruction = Callable[[], None]


class Stream:
    """Runs what is submitted, and keeps it while recording."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.kept: list[Instruction] | None = None

    def submit(self, instruction: Instruction) -> None:
        """Run now; keep."""
        instruction()
        if self.kept is not None:
            self.kept.append(instruction)


class Program:
    """What a stream kept. runs: calls of `run`."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.instructions: list[Instruction] = []
        self.runs = 0

    def record(self) -> None:
        """Begin, or go on."""
        self.stream.kept = self.instructions

    def end(self) -> None:
        """Stop."""
        self.stream.kept = None

    def __len__(self) -> int:
        return len(self.instructions)

    def run(self, first: int, last: int) -> None:
        """Replay instructions first … last - 1."""
        assert 0 <= first < last <= len(self.instructions)
        self.runs += 1
        for instruction in self.instructions[first:last]:
            instruction()

    def run_timed(self, first: int, last: int) -> list[float]:
        """The same, with the seconds of each."""
        self.run(first, last)
        return [1e-6] * (last - first)


class Arena:
    """Buffers that are never reused."""

    def __init__(self) -> None:
        self.nbytes = 0

    def take(self, nbytes: int) -> torch.Tensor:
        """nbytes / 4 floats that are not numbers."""
        self.nbytes += nbytes
        return torch.full((nbytes // 4,), float("nan"))


class FakeNative:
    """The extension module."""

    Stream, Program, Arena = Stream, Program, Arena

    @staticmethod
    def isa() -> str:
        """The instruction set."""
        return "python"


def _kernel(reference: Kernel) -> Kernel:
    """A kernel that computes what `reference` does into buffers of the context, by one instruction."""

    def kernel(ctx: CpuContext, op: Op, *args: Any) -> Any:
        out = reference(op, *args)
        targets = [ctx.empty(*t.shape) for t in tensors_of(out)]

        def run() -> None:
            for target, result in zip(targets, tensors_of(reference(op, *args)), strict=True):
                target.copy_(result)

        ctx.stream.submit(run)
        return targets[0] if isinstance(out, torch.Tensor) else tuple(targets)

    return kernel


def fake_device(*ops: type[Op], profile: bool = False) -> CpuDevice:
    """A device with such kernels for `ops` (default: norms, rotation, activation)."""
    device = CpuDevice(kernels="reference", threads=1, profile=profile)
    device.context = CpuContext(FakeNative, 1)
    device.native_kernels = {op: _kernel(REFERENCE[op]) for op in ops or (Norm, AddNorm, RotaryQKV, Activate)}
    return device
