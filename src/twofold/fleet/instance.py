"""Instance: one engine of a fleet in this process, and the parts of a move that it does.

A move is a conversation of two instances: the target reserves blocks and a place (`reserve`), the source
copies (`copy`), then lets the request go (`detach`), the target goes on with it (`attach`).
`fleet.remote.RemoteInstance` has the same methods for an engine in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import torch

from twofold.engine.accounts import Accounts
from twofold.engine.arrivals import Prompt
from twofold.engine.engine import Engine
from twofold.engine.integrity import check
from twofold.engine.output import Completion, OutputBuilder
from twofold.engine.request import Request, RequestStatus, SamplingParams
from twofold.fleet.layerwise import LayerSender, Shipment
from twofold.fleet.load import Load, Resident, decoding_of, load_of
from twofold.fleet.wire import Computed


class Place(NamedTuple):
    """How far a running request is: cache slots filled, and how often it has lost its place (what was copied
    of it counts no more once that has changed)."""

    slots: int
    preemptions: int


@dataclass(slots=True)
class Parcel:
    """A request between two instances: its blocks at the source, and its output so far."""

    request: Request
    table: list[int]
    output: OutputBuilder | None = field(default=None, repr=False)


def check_can_move(engine: Engine, name: str) -> None:
    """ValueError where a cache of `engine` cannot be sent block by block, as the technique `name` does."""
    if not all(cache.shareable for cache in engine.runner.caches):
        raise ValueError(
            f"{name} sends caches block by block, and a technique of this plan keeps a part of them "
            "elsewhere: use one of both"
        )


class Target(Protocol):
    """What takes blocks in."""

    number: int

    def take_in(self, id: str | int, source: Instance, table: list[int], first: int) -> None:
        """Fill reserved blocks from number `first` on with the blocks `table` of `source`."""


class Instance:
    """Instance number `number` of a fleet: `engine`, driven from outside."""

    def __init__(self, number: int, engine: Engine) -> None:
        self.number = number
        self.engine = engine
        self.block_bytes = engine.runner.block_bytes
        self.block_size = engine.scheduler.blocks.block_size
        self._layers = len(engine.runner.caches)
        self._sender: LayerSender | None = None
        self._shipments: dict[str | int, Shipment] = {}
        self._tables: dict[str | int, list[int]] = {}

    # --- what goes on here ---

    @property
    def load(self) -> Load:
        """What it has to do now."""
        return load_of(self.engine.scheduler, self.engine.unfiltered)

    @property
    def decoding(self) -> tuple[Resident, ...]:
        """The requests that generate here."""
        return decoding_of(self.engine.scheduler)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self.engine.has_work

    @property
    def is_busy(self) -> bool:
        """Whether a step is under way."""
        return self.engine.is_busy

    @property
    def newest_step(self) -> Computed | None:
        """The step that was launched last."""
        newest = self.engine.newest
        if newest is None:
            return None
        return Computed(newest.done - newest.result.cost.seconds, newest.done, self._layers)

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
        """Queue a request, as `Engine.add`."""
        self.engine.add(
            prompt, params, id=id, priority=priority, arrival_time=arrival_time, record_times=record_times
        )

    def land(self) -> None:
        """Take in what is done by now."""
        self.engine.land()

    def launch(self) -> float | None:
        """Begin the next step where that can be done (see `Engine.launch`)."""
        return self.engine.launch()

    def take_ended(self) -> list[Request]:
        """Requests that have ended and were not taken before."""
        return self.engine.take_ended()

    def completion(self, id: str | int) -> Completion:
        """What an ended request has yielded; it is forgotten here."""
        found = self.engine.output(id).completion()
        self.engine.forget(id)
        return found

    def check(self) -> None:
        """IntegrityError where blocks or requests do not add up."""
        check(self.engine.scheduler)

    def score(self, token_ids: Sequence[int], num_prompt: int) -> torch.Tensor:
        """Logits, as `Engine.score`."""
        return self.engine.score(token_ids, num_prompt)

    def forget_cached(self) -> None:
        """Forget the beginnings of prompts that are kept for later ones."""
        self.engine.forget_cached()

    def accounts(self) -> Accounts:
        """What the engine has to say of itself."""
        return Accounts.of(self.engine)

    def reset_totals(self) -> None:
        """Forget what was done so far."""
        self.engine.reset_totals()

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    # --- as the source of a move ---

    def bind(self, id: str | int, target: Instance, least: int) -> None:
        """Request `id`, which is about to come, goes on at `target`: where its prompt has `least` tokens or
        more, the cache goes there layer by layer, beside the step that computes the last of it."""
        self.sender.bound[id] = least, partial(self._ship, target)

    @property
    def sender(self) -> LayerSender:
        """What sends caches beside the steps, from now on."""
        if self._sender is None:
            engine = self.engine
            self._sender = LayerSender(engine.runner.caches, real=engine.device.real)
            engine.runner.sending = self._sender
        return self._sender

    def _ship(self, target: Instance, request: Request, slots: int) -> Shipment | None:
        if not target.reserve(request.id, slots + 1):
            return None
        blocks = self.engine.scheduler.blocks.blocks_for(slots)
        pairs = list(zip(request.block_table[:blocks], target.reserved(request.id), strict=False))
        mine, theirs = self.engine.runner.caches, target.engine.runner.caches
        shipment = Shipment(target, request, slots, pairs, mine, theirs)
        self._shipments[request.id] = shipment
        return shipment

    def take_shipment(self, id: str | int) -> Shipment | None:
        """What has gone of request `id` with its prompt, and is not accounted for; none will."""
        if self._sender is not None:
            self._sender.bound.pop(id, None)
        return self._shipments.pop(id, None)

    def place(self, id: str | int) -> Place | None:
        """How far request `id` is; None where it does not run here."""
        request = self.engine.scheduler.requests.get(id)
        if request is None or request.status is not RequestStatus.RUNNING:
            return None
        return Place(request.num_slots, request.num_preemptions)

    def copy(self, id: str | int, place: Place, first: int, last: int, target: Target) -> bool:
        """Copy the full blocks `first` to `last` (excluded) of request `id` to where `target` has reserved
        them. False where it has lost its place since."""
        now = self.place(id)
        if now is None or now.preemptions != place.preemptions:
            return False
        target.take_in(id, self, self.engine.scheduler.requests[id].block_table[first:last], first)
        return True

    def detach(self, id: str | int, most_slots: int) -> Parcel | None:
        """Let request `id` go; None where it is in a step, has more than `most_slots` slots, or does not run
        here."""
        request = self.engine.scheduler.requests.get(id)
        if request is None or request.in_flight or request.status is not RequestStatus.RUNNING:
            return None
        if request.num_slots > most_slots:
            return None
        return Parcel(request, *self.engine.detach(request))

    def copy_rest(self, parcel: Parcel, first: int, target: Target) -> None:
        """Copy the blocks of a request that has left, from number `first` on."""
        target.take_in(parcel.request.id, self, parcel.table[first:], first)

    def reclaim(self, parcel: Parcel) -> None:
        """What `parcel` held here has arrived elsewhere: free it."""
        self.engine.scheduler.blocks.reclaim(parcel.table)

    # --- as the target of a move ---

    def reserve(self, id: str | int, slots: int) -> bool:
        """Keep a place for request `id` and blocks for `slots` slots. False where there is no room."""
        scheduler = self.engine.scheduler
        if scheduler.num_running + scheduler.num_expected >= scheduler.config.max_num_seqs:
            return False
        table = scheduler.blocks.lend(scheduler.blocks.blocks_for(slots))
        if table is None:
            return False
        scheduler.num_expected += 1
        self._tables[id] = table
        self.engine.runner.rank.hold(table)
        return True

    def extend(self, id: str | int, slots: int) -> bool:
        """Reserve more blocks for request `id`, `slots` slots in all. False where there is no room."""
        blocks, table = self.engine.scheduler.blocks, self._tables[id]
        extended = blocks.extend(table, blocks.blocks_for(slots))
        self.engine.runner.rank.hold(table)
        return extended

    def reserved(self, id: str | int) -> list[int]:
        """The blocks that are reserved for request `id`."""
        return self._tables[id]

    def take_in(self, id: str | int, source: Instance, table: list[int], first: int) -> None:
        """Fill reserved blocks from number `first` on with the blocks `table` of `source`."""
        if not self.engine.device.real:
            return
        pairs = list(zip(table, self._tables[id][first:], strict=False))
        for mine, theirs in zip(self.engine.runner.caches, source.engine.runner.caches, strict=True):
            theirs.copy_blocks(pairs, mine.blocks, out=True)

    def attach(self, parcel: Parcel) -> None:
        """Go on with a request whose blocks have all arrived."""
        assert parcel.output is not None
        table = self._tables.pop(parcel.request.id)
        self.engine.attach(parcel.request, table, parcel.output)

    def release(self, id: str | int) -> None:
        """Request `id` does not come after all."""
        scheduler = self.engine.scheduler
        scheduler.blocks.reclaim(self._tables.pop(id))
        scheduler.num_expected -= 1
