"""Workers that a test holds in the middle of an answer, however slow or fast the machine is."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from twofold.plan import Plan
from twofold.server import processes, worker
from twofold.server.channel import Channel

LOOK_SECONDS = 0.005


class Gate:
    """Files in a folder, by which the workers of `gated` go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self) -> None:
        """From now on a worker does a step for every batch of commands, and no others."""
        (self._folder / "hold").touch()

    def shut(self) -> None:
        """From now on no worker begins."""
        (self._folder / "shut").touch()

    def open(self) -> None:
        """Let all of them go on."""
        for file in self._folder.iterdir():
            file.unlink()


@contextmanager
def gated(folder: Path) -> Iterator[Gate]:
    """Workers that are started within it heed the gate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "work", partial(_work, folder=folder))
        yield Gate(folder)


def _work(sock: socket.socket, plan: Plan, folder: Path) -> None:
    """Main function of such a worker's process."""

    class GatedChannel(Channel):
        def receive(self, timeout: float | None = 0.0) -> list[Any]:
            found = super().receive(timeout)
            while timeout == 0.0 and not found and (folder / "hold").exists():
                found = super().receive(LOOK_SECONDS)
            return found

    while (folder / "shut").exists():
        time.sleep(LOOK_SECONDS)
    worker.Channel = GatedChannel  # type: ignore[misc]
    worker.work(sock, plan)
