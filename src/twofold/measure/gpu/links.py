"""Copies between host and GPU and between GPUs, and sums over all GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from twofold.devices.microbench import Reading
from twofold.measure.gpu.timing import Timer, Work
from twofold.measure.suite import size_text

COPY_SIZES = (1 << 16, 1 << 20, 1 << 24, 1 << 28)
REDUCE_SIZES = (1 << 13, 1 << 17, 1 << 20, 1 << 24, 1 << 28)


def copies(timer: Timer, where: torch.device, sizes: tuple[int, ...] = COPY_SIZES) -> Iterator[Reading]:
    """Bytes/s of copies from and to pinned host memory, alone and both ways at once (two copy engines)."""
    for size in sizes:
        host = [torch.empty(size, dtype=torch.uint8).pin_memory() for _ in range(2)]
        near = [torch.empty(size, dtype=torch.uint8, device=where) for _ in range(2)]
        to = partial(near[0].copy_, host[0], non_blocking=True)
        back = partial(host[1].copy_, near[1], non_blocking=True)
        both = partial(_at_once, to, back, torch.cuda.Stream())  # type: ignore[no-untyped-call]
        yield Reading("host to device", size_text(size), size / timer.seconds(to), "B/s")
        yield Reading("device to host", size_text(size), size / timer.seconds(back), "B/s")
        yield Reading("both ways", size_text(size), 2 * size / timer.seconds(both), "B/s")


def _at_once(first: Work, second: Work, side: torch.cuda.Stream) -> None:
    """`first` on the current stream beside `second` on another."""
    side.wait_stream(torch.cuda.current_stream())
    first()
    with torch.cuda.stream(side):
        second()
    torch.cuda.current_stream().wait_stream(side)


def peers(timer: Timer, missing: dict[str, str]) -> Iterator[Reading]:
    """Bytes/s of copies from the first GPU to the second, and of all-reduces over all GPUs (message size over
    time); one GPU alone has neither."""
    count = torch.cuda.device_count()
    if count < 2:
        missing["peer copies and collectives"] = "there is one GPU"
        return
    for size in COPY_SIZES:
        a, b = (torch.empty(size, dtype=torch.uint8, device=f"cuda:{i}") for i in (0, 1))
        seconds = timer.seconds(partial(b.copy_, a, non_blocking=True))
        yield Reading("peer copy", size_text(size), size / seconds, "B/s")
    from torch.cuda import nccl

    def all_reduce(parts: list[torch.Tensor]) -> None:
        nccl.all_reduce(parts)  # type: ignore[no-untyped-call]

    for size in REDUCE_SIZES:
        parts = [torch.ones(size // 2, dtype=torch.bfloat16, device=f"cuda:{i}") for i in range(count)]
        seconds = timer.seconds(partial(all_reduce, parts))
        yield Reading("all-reduce", f"{size_text(size)}, {count} GPUs", size / seconds, "B/s")
