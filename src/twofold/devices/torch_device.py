"""The real devices `cpu` and `cuda`: kernels compute, the wall clock passes."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import twofold.kernels.reference  # noqa: F401  (fills the registry)
from twofold.devices import group
from twofold.devices.base import LOCAL_CACHE_TOKENS, LOCAL_STEP_TOKENS, Device, LayerT, OpTotals, StepCost
from twofold.devices.clock import WallClock
from twofold.kernels.registry import REFERENCE, Kernel
from twofold.ops.attention import Attention
from twofold.ops.base import Cost, Op


class TorchDevice(Device):
    """Executes ops with torch kernels on `cpu` or `cuda`, as rank `rank` of `ranks` of one model: each has a
    GPU of its own, or its share of this machine's memory.

    profile: time every op (synchronising a GPU around each), so that `totals` hold seconds by kind; costs
    speed.
    """

    real = True
    confidence = "measured"
    step_tokens = LOCAL_STEP_TOKENS
    cache_tokens = LOCAL_CACHE_TOKENS

    def __init__(self, name: str = "cpu", *, profile: bool = False, rank: int = 0, ranks: int = 1) -> None:
        super().__init__()
        if name == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "device 'cuda' was asked for, but torch finds no GPU here; use 'cpu', or predict on a "
                "modelled GPU"
            )
        self.name = name
        self.rank, self.ranks = rank, ranks
        self.where = torch.device(name, rank) if name == "cuda" and ranks > 1 else torch.device(name)
        if self.where.index is not None:
            torch.cuda.set_device(self.where)
        self.native_precision = "fp32" if name == "cpu" else "bf16"
        if name == "cpu":
            self.page_bytes = mmap.PAGESIZE
        self.clock = WallClock()
        self.profile = profile
        host = _memory("cpu") // ranks
        self.memory = {"device": host if name == "cpu" else _memory(name), "host": host}
        self.kernels: dict[type[Op], Kernel] = REFERENCE
        self._ops: list[Op] = []
        self._seconds: list[float] = []
        self._costs: dict[Op, Cost] = {}
        self._started = 0.0

    def meet(self, folder: Path, processes: Sequence[int]) -> None:
        """Meet the other ranks in `folder`, which all of them give; returns once all are there. From then on
        collectives work. processes: the process id of each rank."""
        group.join(str(folder / "ranks"), self.name, self.rank, self.ranks)

    def execute(self, op: Op, *args: Any) -> Any:
        """Run the kernel of `op`."""
        self._ops.append(op)
        if not self.profile:
            return self.kernels[type(op)](op, *args)
        start = time.perf_counter()
        out = self.kernels[type(op)](op, *args)
        self._wait()
        self._seconds.append(time.perf_counter() - start)
        return out

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """All layers."""
        return iter(layers)

    def begin_step(self) -> None:
        """Start timing a step."""
        self._ops.clear()
        self._seconds.clear()
        self._started = time.perf_counter()

    def end_step(self) -> StepCost:
        """Wait for the step's kernels, then add up what its ops counted."""
        self._wait()
        seconds = time.perf_counter() - self._started
        spent = self.totals
        for i, op in enumerate(self._ops):
            cost = self._costs.get(op)
            if cost is None:
                cost = op.cost()
                if not isinstance(op, Attention):
                    self._costs[op] = cost
            totals = spent.setdefault(op.kind, OpTotals())
            totals.calls += 1
            totals.flop += cost.flop
            totals.vector_flop += cost.vector_flop
            totals.bytes_moved += cost.bytes_moved
            totals.sent += cost.sent
            if self.profile:
                totals.seconds += self._seconds[i]
        return StepCost(seconds, None, [seconds])

    def _wait(self) -> None:
        if self.where.type == "cuda":
            torch.cuda.synchronize()


def _memory(name: str) -> int:
    """Bytes of memory that this process could use on `name`."""
    if name == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
