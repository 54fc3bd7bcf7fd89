"""Native collectives among threads that stand for processes: sums, order, long messages, a peer that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.waiting import PATIENCE

from twofold.kernels.cpu import native
from twofold.kernels.cpu.collectives import SLOT, all_gather, all_reduce, share_memory
from twofold.kernels.cpu.context import CpuContext
from twofold.ops.movement import AllGather, AllReduce

pytestmark = pytest.mark.skipif(native() is None, reason="the native kernels are not built")


def contexts(path: Path, world: int, threads: int = 1) -> list[CpuContext]:
    """A context for each rank; all are this process."""
    found = [CpuContext(native(), threads) for _ in range(world)]
    for rank, ctx in enumerate(found):
        share_memory(ctx, path, rank, [os.getpid()] * world)
    return found


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_rank_gets_the_sum(tmp_path: Path, world: int, threads: int) -> None:
    ranks = contexts(tmp_path / "memory", world, threads)
    for size in (1, 576, 5000, SLOT + 3, 7):
        given = [torch.randn(1, size) for _ in ranks]
        expected = given[0].clone()
        for x in given[1:]:
            expected += x  # in the order of ranks
        op = AllReduce(4 * size, world, "tp")
        with ThreadPoolExecutor(world) as pool:
            got = list(pool.map(lambda ctx, x: all_reduce(ctx, op, x.clone()), ranks, given))  # noqa: B023
        assert all(torch.equal(x, expected) for x in got)


@pytest.mark.parametrize("rows", [1, 5])
def test_every_rank_gets_all_parts_side_by_side(tmp_path: Path, rows: int) -> None:
    widths = [SLOT // 4, SLOT // 4 - 16, 3]  # several rows take several messages
    ranks = contexts(tmp_path / "memory", 3)
    given = [torch.randn(rows, width) for width in widths]
    op = AllGather(4 * rows * widths[0], 3, "tp")
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda ctx, x: all_gather(ctx, op, x, widths), ranks, given))
    assert all(torch.equal(x, torch.cat(given, -1)) for x in got)


def test_what_is_not_theirs_is_left_to_the_reference_kernels(tmp_path: Path) -> None:
    alone = CpuContext(native(), 1)
    op, x = AllReduce(8, 2, "tp"), torch.ones(1, 2)
    assert all_reduce(alone, op, x) is NotImplemented
    ranks = contexts(tmp_path / "memory", 2)
    assert all_reduce(ranks[0], op, x.bfloat16()) is NotImplemented
    assert all_gather(ranks[0], AllGather(8, 2, "tp"), x, [SLOT + 1, 2]) is NotImplemented


def test_waiting_ends_with_the_process_that_is_waited_for(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ctx = CpuContext(native(), 2)
    share_memory(ctx, tmp_path / "memory", 0, [os.getpid(), child.pid])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(all_reduce, ctx, AllReduce(8, 2, "tp"), torch.ones(1, 2))
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        child.communicate(b"\n")
        with pytest.raises(RuntimeError, match="rank 1 ended in the middle of a collective"):
            waiting.result(PATIENCE)
