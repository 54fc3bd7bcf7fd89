"""Native collectives among processes of this machine, through memory that they share: a message takes some
microseconds, where one through the system's network takes hundreds. Shape letters: T tokens, W width."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import NotImplementedType

import torch

from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.cpu.elementwise import floats
from twofold.kernels.registry import cpu
from twofold.ops.movement import AllGather, AllReduce

SLOT = 1 << 18
"""Floats of a message that are exchanged at once."""


def share_memory(ctx: CpuContext, path: Path, rank: int, processes: Sequence[int]) -> None:
    """Let the native collectives of `ctx` meet in the file at `path`, which every rank gives; the first one
    makes it. processes: the process id of each rank. OSError where there is no room for it."""
    exchange = ctx.native.Exchange
    size = exchange.nbytes(len(processes), SLOT)
    with path.open("a+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    memory = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
    ctx.exchange = exchange(memory.data_ptr(), rank, list(processes), SLOT), memory


@cpu(AllReduce)
def all_reduce(ctx: CpuContext, op: AllReduce, x: torch.Tensor) -> torch.Tensor | NotImplementedType:
    """The sum of every rank's x, added in the order of ranks on each of them; x is overwritten."""
    if ctx.exchange is None or not floats(x):
        return NotImplemented
    ctx.native.all_reduce(ctx.stream, ctx.exchange[0], x.data_ptr(), x.numel())
    return x


@cpu(AllGather)
def all_gather(
    ctx: CpuContext, op: AllGather, x: torch.Tensor, widths: Sequence[int] = ()
) -> torch.Tensor | NotImplementedType:
    """Every rank's x [T, W], side by side: [T, sum of W]. widths: W by rank, where they differ."""
    if ctx.exchange is None or not floats(x) or x.dim() != 2:
        return NotImplemented
    rows, width = x.shape
    widths = list(widths) or [width] * op.world
    if max(widths) > SLOT:
        return NotImplemented
    y = ctx.empty(rows, sum(widths))
    native = ctx.native
    native.all_gather(ctx.stream, ctx.exchange[0], x.data_ptr(), rows, widths, width, y.data_ptr())
    return y
