"""RemoteInstance: an instance in a process of its own, with the methods of `fleet.instance.Instance`.

It steps by itself; between two steps it does what it is asked. Cache blocks go over in memory that the two
processes share, and never through this one.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from twofold.devices.clock import WallClock
from twofold.engine.accounts import Accounts
from twofold.engine.arrivals import Prompt
from twofold.engine.output import Completion
from twofold.engine.request import Request, SamplingParams
from twofold.fleet.instance import Instance, Parcel, Place
from twofold.fleet.load import Load, Resident
from twofold.fleet.setup import Setup
from twofold.fleet.wire import Computed

MODULE = "twofold.fleet.worker"
LOOK_SECONDS = 0.001
"""How often a fleet looks what instances in other processes have done."""
END_SECONDS = 5.0
"""How long a process has to end before it is killed."""
_MEMORY = Path("/dev/shm")
"""Where files that lie in memory alone can be made, on systems that have it."""


class RemoteShipment:
    """A cache that goes with its prompt to the process of `target`: what there is to know of it here. As
    `fleet.layerwise.Shipment`."""

    def __init__(self, target: RemoteInstance, id: str | int, slots: int, preemptions: int) -> None:
        self.target, self.slots, self.preemptions = target, slots, preemptions
        self.nbytes = -(-slots // target.block_size) * target.block_bytes
        self._id = id

    def arrived(self) -> int:
        """Wait until all of it is there; the bytes that were when the prompt's step was over."""
        return int(self.target._ask("unloaded", self._id))


class RemoteInstance(Instance):
    """Starts a process for `setup`. `ready` waits until it is built; ValueError where the plan cannot work,
    RuntimeError where the process fails."""

    def __init__(self, setup: Setup) -> None:
        self.number = setup.number
        self._ended: list[Request] = []
        self._open: set[str | int] = set()
        self._load: Load | None = None
        self._bound: dict[str | int, RemoteInstance] = {}
        self._leaving: list[tuple[str | int, int, int, Path]] = []
        self._left: dict[str | int, RemoteShipment] = {}
        self._clock = WallClock(setup.start)
        mine, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", MODULE, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        self._connection = Connection(mine.detach())
        self._crates = _folder()
        self._end = weakref.finalize(self, _end, self._connection, self.process, self._crates)
        self._connection.send(setup)

    def ready(self) -> None:
        """Wait until the engine is built."""
        kind, *rest = self._receive()
        if kind == "refused":
            raise ValueError(rest[0])
        self.block_bytes, self.block_size = rest

    # --- talking ---

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise self._failure() from None

    def _failure(self) -> RuntimeError:
        code = _wait(self.process)
        return RuntimeError(f"instance {self.number} failed: its process ended with code {code}")

    def _take(self, message: Any) -> tuple[str, Any]:
        kind, value, load = message
        if kind == "leaving":
            self._leaving.append(value)
            return kind, value
        self._load = load
        if kind == "step":
            self._ended += value
            self._open -= {request.id for request in value}
        return kind, value

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            self._connection.send((method, args))
        except OSError:
            raise self._failure() from None
        while True:
            kind, value = self._take(self._receive())
            if kind == "refused":
                raise ValueError(value)
            if kind == "reply":
                return value

    def _call(self, name: str, *args: Any, **rest: Any) -> Any:
        return self._ask("call", name, args, rest)

    # --- what goes on there ---

    @property
    def load(self) -> Load:
        """What it had to do after its last step."""
        if self._load is None:
            self._call("check")
        assert self._load is not None
        return self._load

    @property
    def decoding(self) -> tuple[Resident, ...]:
        """The requests that generate there."""
        return self.load.decoding

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished there."""
        return bool(self._open)

    @property
    def is_busy(self) -> bool:
        """It never waits for its turn."""
        return self.has_work

    @property
    def newest_step(self) -> Computed | None:
        """Not known here."""
        return None

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams | None,
        *,
        id: str | int,
        priority: int,
        arrival_time: float,
        record_times: bool,
    ) -> None:
        """Queue a request."""
        rest = {"id": id, "priority": priority, "arrival_time": arrival_time, "record_times": record_times}
        self._call("add", prompt, params, **rest)
        self._open.add(id)

    def land(self) -> None:
        """Hear what it has done, and have taken in what it sends elsewhere."""
        while self._connection.poll():
            self._take(self._receive())
        while self._leaving:
            id, slots, preemptions, path = self._leaving.pop(0)
            target = self._bound.pop(id, None)
            if target is not None and id in self._open and target.reserve(id, slots + 1):
                target._ask("unload", path, id, slots)
                self._left[id] = RemoteShipment(target, id, slots, preemptions)
            path.unlink()  # whoever needs it has it open

    def launch(self) -> float | None:
        """It steps by itself: look again soon."""
        return self._clock.now() + LOOK_SECONDS

    def take_ended(self) -> list[Request]:
        """Requests that have ended and were not taken before."""
        ended, self._ended = self._ended, []
        return ended

    def completion(self, id: str | int) -> Completion:
        """What an ended request has yielded."""
        found: Completion = self._call("completion", id)
        return found

    def check(self) -> None:
        """Check its blocks and requests."""
        self._call("check")

    def score(self, token_ids: Sequence[int], num_prompt: int) -> torch.Tensor:
        """Logits, as `Engine.score`."""
        return torch.from_numpy(self._ask("score", token_ids, num_prompt))

    def forget_cached(self) -> None:
        """Forget the beginnings of prompts that are kept for later ones."""
        self._call("forget_cached")

    def accounts(self) -> Accounts:
        """What its engine has to say of itself."""
        found: Accounts = self._call("accounts")
        return found

    def reset_totals(self) -> None:
        """Forget what was done so far."""
        self._call("reset_totals")

    def close(self) -> None:
        """End the process. Closing twice is fine."""
        self._end()

    # --- moves ---

    def bind(self, id: str | int, target: Any, least: int) -> None:
        """Request `id` goes on at `target`, another process, and its cache with its prompt."""
        self._ask("bind", id, least, Path(self._crates.name))
        self._bound[id] = target

    def take_shipment(self, id: str | int) -> Any:
        """What has gone of request `id` with its prompt."""
        self._bound.pop(id, None)
        return self._left.pop(id, None)

    def place(self, id: str | int) -> Place | None:
        """How far request `id` is."""
        found: Place | None = self._call("place", id)
        return found

    def copy(self, id: str | int, place: Place, first: int, last: int, target: Any) -> bool:
        """Copy blocks to `target`, another process."""
        with _crate_file() as path:
            if not self._ask("fill", path, id, place.preemptions, first, last):
                return False
            target._ask("empty", path, id, first, last - first)
        return True

    def detach(self, id: str | int, most_slots: int) -> Parcel | None:
        """Let request `id` go."""
        found = self._ask("send_off", id, most_slots)
        if found is None:
            return None
        self._open.discard(id)
        return Parcel(*found)

    def copy_rest(self, parcel: Parcel, first: int, target: Any) -> None:
        """Copy the last blocks to `target`."""
        id = parcel.request.id
        with _crate_file() as path:
            if count := self._ask("fill_rest", path, id, first):
                target._ask("empty", path, id, first, count)

    def reclaim(self, parcel: Parcel) -> None:
        """Free what it held."""
        self._ask("reclaim_of", parcel.request.id)

    def reserve(self, id: str | int, slots: int) -> bool:
        """Keep a place."""
        return bool(self._call("reserve", id, slots))

    def extend(self, id: str | int, slots: int) -> bool:
        """Reserve more blocks."""
        return bool(self._call("extend", id, slots))

    def attach(self, parcel: Parcel) -> None:
        """Go on with a request there."""
        self._open.add(parcel.request.id)
        self._ask("welcome", parcel.request)

    def release(self, id: str | int) -> None:
        """It does not come after all."""
        self._ask("release", id)


@contextmanager
def _crate_file() -> Iterator[Path]:
    """The path of a file in memory, which is gone afterwards."""
    with _folder() as folder:
        yield Path(folder) / "blocks"


def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for files in memory."""
    return tempfile.TemporaryDirectory(prefix="twofold-crate-", dir=_MEMORY if _MEMORY.is_dir() else None)


def _end(
    connection: Connection, process: subprocess.Popen[bytes], crates: tempfile.TemporaryDirectory[str]
) -> None:
    """End a process: it reads the end of its socket between two steps."""
    connection.close()
    crates.cleanup()
    _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
