"""Joining and leaving the process group in which the reference kernels of collectives meet.

The ranks of a tensor-parallel model are processes of one machine. They find each other through a file that
only their user can read, and on a CPU talk over the loopback interface alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
PATIENCE = timedelta(minutes=10)
"""How long a rank waits for one that is alive: it may still be loading. One that has died is noticed at once,
by its closed connection."""


def check_free(name: str, ranks: int) -> None:
    """ValueError where `ranks` ranks on device `name` cannot be started from this process."""
    if not dist.is_available():
        raise ValueError(f"tp={ranks} needs torch.distributed, which this torch was built without")
    if os.name != "posix":
        raise ValueError(f"tp={ranks} on a real device needs a POSIX system")
    if dist.is_initialized():
        raise ValueError(
            "this process is in a torch.distributed group already; close() the engine with tp > 1 that is in "
            "it"
        )
    if name == "cuda" and torch.cuda.device_count() < ranks:
        raise ValueError(
            f"tp={ranks} takes {ranks} GPUs, and torch finds {torch.cuda.device_count()} here; lower tp, or "
            "predict on a modelled GPU"
        )


def join(meeting: str, name: str, rank: int, ranks: int) -> None:
    """Become rank `rank` of `ranks` on device `name`; returns once all have come. meeting: path of a file, to
    be made, that all of them give."""
    with _loopback():
        dist.init_process_group(
            BACKENDS[name],
            store=dist.FileStore(meeting, ranks),  # type: ignore[attr-defined]
            rank=rank,
            world_size=ranks,
            timeout=PATIENCE,
        )


def leave() -> None:
    """Leave the group, where this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _loopback() -> Iterator[None]:
    """While open, gloo picks the loopback interface, unless the environment names one."""
    name = "GLOO_SOCKET_IFNAME"
    if name in os.environ or not sys.platform.startswith("linux"):
        yield
        return
    os.environ[name] = "lo"
    try:
        yield
    finally:
        del os.environ[name]
