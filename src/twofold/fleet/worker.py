"""The process of an instance: builds its engine, then steps by itself and does what it is asked between two
steps, until the fleet closes the connection or is gone.

Nothing heavy is imported before the process has settled how torch's threads wait.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.engine.follower import live_with_parent
from twofold.kernels.cpu.threads import quiet_openmp

if TYPE_CHECKING:
    from twofold.engine.request import Request
    from twofold.fleet.crate import CrateOutlet, Unloading
    from twofold.fleet.instance import Instance, Parcel


PATIENCE_SECONDS = 0.002
"""How long an instance waits for what is asked next before it goes on: a move is several questions in a row,
and a step may take longer than the whole of it."""


FETCH_SECONDS = 0.01
"""How long it waits to be asked for a request whose prompt it has computed for another instance: in the next
step that would be computed on here, and have to be copied behind the rest."""


def main(descriptor: int) -> None:
    """Serve the connection behind a file descriptor."""
    live_with_parent()
    quiet_openmp()
    connection = Connection(descriptor)
    try:
        _serve(connection)
    except EOFError:
        os._exit(0)  # what torch would tidy up, the system does in no time


def _serve(connection: Connection) -> None:
    from twofold.fleet.setup import Setup

    setup: Setup = connection.recv()
    try:
        served = Served(setup.build(), connection)
    except ValueError as error:
        connection.send(("refused", str(error)))
        return
    connection.send(("up", served.instance.block_bytes, served.instance.block_size))
    while True:
        patience = FETCH_SECONDS if served.expects_fetching else 0.0
        while connection.poll(patience if served.instance.has_work else None):
            patience = PATIENCE_SECONDS
            served.expects_fetching = False
            method, args = connection.recv()
            try:
                value = getattr(served, method)(*args)
            except ValueError as error:
                connection.send(("refused", str(error), served.instance.load))
            else:
                connection.send(("reply", value, served.instance.load))
        if served.instance.has_work:
            ended = served.step()
            connection.send(("step", ended, served.instance.load))


class Served:
    """An instance as its process serves it: what takes blocks or requests gives or gets them in a form that
    can be sent."""

    def __init__(self, instance: Instance, connection: Connection) -> None:
        self.instance = instance
        self.expects_fetching = False
        self._connection = connection
        self._parcels: dict[str | int, Parcel] = {}
        self._unloadings: dict[str | int, Unloading] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.instance, name)

    def call(self, name: str, args: tuple[Any, ...], rest: dict[str, Any]) -> Any:
        """Any other method of the instance."""
        return getattr(self.instance, name)(*args, **rest)

    def step(self) -> list[Request]:
        """Do the next thing; requests that ended."""
        bound = self.instance.sender.bound
        before = len(bound)
        ended = self.instance.engine.step()
        self.expects_fetching = len(bound) < before
        for request in ended:
            self.instance.take_shipment(request.id)
        return ended

    def score(self, token_ids: Sequence[int], num_prompt: int) -> Any:
        """Logits as an array, whose bytes are sent."""
        return self.instance.score(token_ids, num_prompt).numpy()

    # --- caches that go with their prompts ---

    def bind(self, id: str | int, least: int, folder: Path) -> None:
        """The cache of request `id` goes into a crate in `folder`, beside the step that computes the last of
        a prompt of `least` tokens or more. The fleet hears of it when that begins."""
        self.instance.sender.bound[id] = least, partial(self._load_crate, folder / str(id))

    def _load_crate(self, path: Path, request: Request, slots: int) -> CrateOutlet:
        from twofold.fleet.crate import CrateOutlet

        table = request.block_table[: self._blocks(slots)]
        crate = self._crate(path, len(table), new=True)
        self._connection.send(("leaving", (request.id, slots, request.num_preemptions, path), None))
        return CrateOutlet(crate, table)

    def unload(self, path: Path, id: str | int, slots: int) -> None:
        """Begin to copy a crate that is still being filled into the blocks reserved for request `id`."""
        from twofold.fleet.crate import Unloading

        table = self.instance.reserved(id)[: self._blocks(slots)]
        self._unloadings[id] = Unloading(self._crate(path, len(table), new=False), table)

    def unloaded(self, id: str | int) -> int:
        """Wait for all of it; the bytes that had arrived when the step of the prompt was over."""
        return self._unloadings.pop(id).arrived()

    def release(self, id: str | int) -> None:
        """Request `id` does not come after all."""
        unloading = self._unloadings.pop(id, None)
        if unloading is not None:
            unloading.stop()
        self.instance.release(id)

    def _blocks(self, slots: int) -> int:
        return self.instance.engine.scheduler.blocks.blocks_for(slots)

    # --- requests that move ---

    def fill(self, path: Path, id: str | int, preemptions: int, first: int, last: int) -> bool:
        """Copy blocks of a running request into a new crate. False where it has lost its place."""
        place = self.instance.place(id)
        if place is None or place.preemptions != preemptions:
            return False
        table = self.instance.engine.scheduler.requests[id].block_table[first:last]
        self._crate(path, len(table), new=True).fill(table)
        return True

    def fill_rest(self, path: Path, id: str | int, first: int) -> int:
        """Copy the last blocks of a request that has left into a new crate. Returns their number."""
        table = self._parcels[id].table[first:]
        if table:
            self._crate(path, len(table), new=True).fill(table)
        return len(table)

    def empty(self, path: Path, id: str | int, first: int, count: int) -> None:
        """Copy a crate into the blocks that are reserved for a request, from number `first` on."""
        table = self.instance.reserved(id)[first : first + count]
        self._crate(path, count, new=False).empty(table)

    def send_off(self, id: str | int, most_slots: int) -> tuple[Request, list[int]] | None:
        """Let a request go; its blocks stay until `reclaim_of`."""
        parcel = self.instance.detach(id, most_slots)
        if parcel is None:
            return None
        self._parcels[id] = parcel
        return parcel.request, parcel.table

    def reclaim_of(self, id: str | int) -> None:
        """The request has arrived elsewhere."""
        self.instance.reclaim(self._parcels.pop(id))

    def welcome(self, request: Request) -> None:
        """Go on with a request that comes from another process."""
        from twofold.engine.output import OutputBuilder
        from twofold.fleet.instance import Parcel

        output = OutputBuilder(request, self.instance.engine.tokenizer)
        output.extend(request.num_output_tokens, [None] * request.num_output_tokens)
        self.instance.attach(Parcel(request, [], output))

    def _crate(self, path: Path, count: int, *, new: bool) -> Any:
        from twofold.fleet.crate import Crate

        return Crate(path, self.instance.engine.runner.caches, count, new=new)


if __name__ == "__main__":
    main(int(sys.argv[1]))
