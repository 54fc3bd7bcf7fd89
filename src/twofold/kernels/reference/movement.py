"""Copies between memories, and collectives among the processes of the default torch.distributed group.

Shape letters: T tokens, W width, n participants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F

from twofold.kernels.registry import reference
from twofold.ops.movement import AllGather, AllReduce, AllToAll, Copy, MapPages, Send


@reference(Copy)
def copy(op: Copy, move: Callable[[], None]) -> None:
    """Run `move`, which copies the op's bytes."""
    del op
    move()


@reference(MapPages)
def map_pages(op: MapPages, show: Callable[[], None]) -> None:
    """Run `show`, which maps the op's pages."""
    del op
    show()


@reference(AllReduce)
def all_reduce(op: AllReduce, x: torch.Tensor) -> torch.Tensor:
    """The sum of every participant's x, the same shape; x is overwritten."""
    assert dist.get_world_size() == op.world
    dist.all_reduce(x)
    return x


@reference(AllGather)
def all_gather(op: AllGather, x: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """Every participant's x [T, W], side by side: [T, n · W]. widths: W by participant, where they differ."""
    assert dist.get_world_size() == op.world
    widths = widths or [x.shape[-1]] * op.world
    # Messages of one length is what every backend has.
    mine = F.pad(x, (0, max(widths) - x.shape[-1])).contiguous()
    parts = [torch.empty_like(mine) for _ in widths]
    dist.all_gather(parts, mine)
    return torch.cat([part[..., :width] for part, width in zip(parts, widths, strict=True)], dim=-1)


@reference(AllToAll)
def all_to_all(op: AllToAll, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """parts[i] goes to participant i; returns what came from each. All parts have one shape.

    Written as an all-gather of everything, which every backend has; a backend's own all-to-all moves 1/n of
    that.
    """
    assert dist.get_world_size() == op.world == len(parts)
    mine = torch.stack(parts)
    theirs = [torch.empty_like(mine) for _ in parts]
    dist.all_gather(theirs, mine)
    rank = dist.get_rank()
    return [sent[rank] for sent in theirs]


@reference(Send)
def send(op: Send, x: torch.Tensor) -> torch.Tensor:
    """Pass x to the next participant of the pipeline and return what the previous one passed; the first keeps
    its own."""
    rank, world = dist.get_rank(), op.world
    assert dist.get_world_size() == world
    received = x.clone()
    waiting = [dist.isend(x.contiguous(), rank + 1)] if rank + 1 < world else []
    if rank > 0:
        dist.recv(received, rank - 1)
    for handle in waiting:
        if handle is not None:
            handle.wait()
    return received
