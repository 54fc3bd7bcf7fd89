"""The other ranks of a tensor-parallel group: processes that do what rank 0 tells them.

Rank 0 talks to each over a pair of connected sockets. When either end dies, however it does, the other one
reads the end of its socket: neither waits for a process that is gone.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from twofold.devices import group
from twofold.devices.torch_device import TorchDevice
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan

MODULE = "twofold.engine.follower"
_MEMORY = Path("/dev/shm")
"""Where files that lie in memory alone can be made, on systems that have it."""
REPORT_SECONDS = 2.0
"""How long rank 0 waits for followers to say what went wrong, once something has."""
END_SECONDS = 5.0
"""How long followers have to end before they are killed."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a follower is told first. calibration: token ids of prose, where a technique learns from them;
    folder, processes: where the ranks meet, and the process id of each."""

    plan: Plan
    checkpoint: str
    calibration: Sequence[int] | None
    rank: int
    folder: Path
    processes: Sequence[int]
    profile: bool


class Followers:
    """The processes of ranks 1 and up of a model on `device`; this process joins their group as rank 0.

    ValueError where there can be none here, RuntimeError where one dies on the way. `close` ends them; so
    does the end of this process. processes: of ranks 1, 2, …; folder: where the ranks meet.
    """

    def __init__(
        self, plan: Plan, device: TorchDevice, checkpoint: Checkpoint, calibration: Sequence[int] | None
    ) -> None:
        group.check_free(device.name, device.ranks)
        self._broken = ""
        self.folder = folder = Path(
            tempfile.mkdtemp(prefix="twofold-ranks-", dir=_MEMORY if _MEMORY.is_dir() else None)
        )
        self.processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._end = weakref.finalize(self, _end, self._connections, self.processes, folder)
        try:
            for _ in range(1, device.ranks):
                self._start()
            processes = [os.getpid(), *(process.pid for process in self.processes)]
            for rank, connection in enumerate(self._connections, start=1):
                setup = Setup(plan, checkpoint.path, calibration, rank, folder, processes, device.profile)
                with suppress(OSError):  # one that died says nothing when it is asked
                    connection.send(setup)
            self._expect("up")
            device.meet(folder, processes)
        except BaseException:
            self.close()
            raise

    def ready(self) -> None:
        """Wait until every follower has built its share. Nothing of where they met stays on disk: memory that
        is mapped needs no name."""
        self._expect("built")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _expect(self, word: str) -> None:
        """Wait until every follower has said `word`. RuntimeError with its reason where one has failed."""
        for rank, connection in enumerate(self._connections, start=1):
            try:
                said = connection.recv()
            except (EOFError, OSError):
                said = ""
            if said != word:
                raise RuntimeError(self._blame({rank: said}))

    @contextmanager
    def doing(self, method: str, *args: Any) -> Iterator[None]:
        """While open, every follower does `method` of `engine.rank.Rank`, as the caller has to.

        RuntimeError where one has failed. Where anything is raised inside, ranks are out of step: nothing can
        be done with them after that.
        """
        if self._broken:
            raise RuntimeError(f"the ranks of this engine stopped working together: {self._broken}")
        message = pickle.dumps((method, args), protocol=5)
        try:
            for connection in self._connections:
                connection.send_bytes(message)
            yield
        except BaseException as error:
            self._broken = self._blame({}) or f"{type(error).__name__}: {error}"
            if isinstance(error, Exception) and self._broken.startswith("rank "):
                raise RuntimeError(self._broken) from error
            raise

    def close(self) -> None:
        """End the followers and leave their group. Closing twice is fine."""
        self._broken = self._broken or "it was closed"
        self._end()

    def _start(self) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", MODULE, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        self.processes.append(process)
        self._connections.append(Connection(mine.detach()))

    def _blame(self, said: dict[int, str]) -> str:
        """Which followers failed and why; empty where none has."""
        deadline = time.monotonic() + REPORT_SECONDS
        for rank, connection in enumerate(self._connections, start=1):
            with suppress(EOFError, OSError):
                while rank not in said and connection.poll(max(0.0, deadline - time.monotonic())):
                    said[rank] = ""
                    said[rank] = connection.recv()
        reasons = {rank: reason or _death(self.processes[rank - 1]) for rank, reason in sorted(said.items())}
        return "; ".join(f"rank {rank} failed: {reason}" for rank, reason in reasons.items())


def _death(process: subprocess.Popen[bytes]) -> str:
    """How a process ended whose socket was closed."""
    try:
        return f"it ended with exit code {process.wait(REPORT_SECONDS)}"
    except subprocess.TimeoutExpired:
        return "it closed its connection"


def _end(connections: list[Connection], processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """End the processes: those that wait read the end of their socket, those in a collective lose their
    peer."""
    for connection in connections:
        connection.close()
    if connections:
        group.leave()
    deadline = time.monotonic() + END_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)
