"""Migration: one request on its way from one instance to another.

    reserve ─▶ copy full blocks, while the request goes on ─▶ … ─▶ stop, copy the rest ─▶ commit

Where the cache went along with the prompt (`fleet.layerwise`), it begins with the stop, and mostly nothing is
left to copy. Blocks that are full are never written again, so what was copied stays right for as long as the
request keeps its place. Source of the stages: Llumnix (arXiv:2406.03243), section 4.2.
"""

from __future__ import annotations

import math

from twofold.fleet.instance import Instance, Parcel, Place
from twofold.fleet.layerwise import Shipment
from twofold.fleet.policy import Move, Stages
from twofold.fleet.wire import Computed, Wire


class Migration:
    """A `move` from `source` to `target` over `wire`, begun at `now`.

    due: when there is something to do (minus infinity: once a step of the source has ended). arrived: how it
    ended; None while it is under way. stage, nbytes: what was copied so far; layerwise: whether it had gone
    with the prompt, and overlapped: the bytes that were there when the prompt's last step ended; downtime:
    seconds for which the request stood still.
    """

    def __init__(
        self,
        move: Move,
        source: Instance,
        target: Instance,
        wire: Wire,
        stages: Stages | None,
        now: float,
    ) -> None:
        self.move, self.source, self.target = move, source, target
        self.due = now
        self.arrived: bool | None = None
        self.stage = 0
        self.nbytes = self.overlapped = 0
        self.downtime = self._stopped = 0.0
        self._wire, self._stages = wire, stages
        self._copied = 0
        self._parcel: Parcel | None = None
        self._place = place = source.place(move.id)
        self._shipment = self._take_shipment(place)
        self._computed: Computed | None = None
        if self._shipment is not None:
            self._copied = self._shipment.slots // source.block_size
            self._computed = source.newest_step
        elif place is None or not target.reserve(move.id, place.slots + 1):
            self.arrived = False

    def _take_shipment(self, place: Place | None) -> Shipment | None:
        """What went along with the prompt, where that is still right."""
        shipment = self.source.take_shipment(self.move.id)
        if shipment is None:
            return None
        alive = place is not None and place.preemptions == shipment.preemptions
        if alive and shipment.target is self.target:
            return shipment
        shipment.target.release(self.move.id)
        self.nbytes = shipment.nbytes
        return None

    @property
    def layerwise(self) -> bool:
        """Whether the cache went along with the prompt."""
        return self._shipment is not None

    @property
    def stopped(self) -> bool:
        """Whether the request has left its source, and so stands still."""
        return self._parcel is not None

    def advance(self, now: float) -> None:
        """Do what can be done by `now`: the next stage, the last one, or the commit."""
        if self.arrived is not None or now < self.due:
            return
        if self._parcel is not None:
            self.target.attach(self._parcel)
            self.source.reclaim(self._parcel)
            self.downtime = now - self._stopped
            self.arrived = True
            return
        assert self._place is not None
        place = self.source.place(self.move.id)
        undisturbed = place is not None and place.preemptions == self._place.preemptions
        if place is None or not undisturbed or not self.target.extend(self.move.id, place.slots + 1):
            self.give_up()
        else:
            self._next_stage(place, now)

    def _next_stage(self, place: Place, now: float) -> None:
        id, size = self.move.id, self.source.block_size
        full, total = place.slots // size, -(-place.slots // size)
        stages, left = self._stages, total - self._copied
        if stages and self.stage + 1 < stages.max_stages and left > stages.last_stage_max_blocks:
            if self.source.copy(id, place, self._copied, full, self.target):
                self._sent(self._copied, full, now)
            else:
                self.give_up()
            return
        self._parcel = self.source.detach(id, total * size)
        if self._parcel is None:
            self.due = -math.inf  # it stops where its step ends
            return
        last = len(self._parcel.table)
        shipped = self._shipment is not None and self._parcel.request.num_slots == self._shipment.slots
        first = last if shipped else self._copied
        if first < last:
            self.source.copy_rest(self._parcel, first, self.target)
        self._stopped = now
        self._sent(first, last, now)
        if self._shipment is not None and self._wire.link is None:
            self.overlapped = self._shipment.arrived()

    def _sent(self, first: int, last: int, now: float) -> None:
        """Blocks `first` to `last` are on the wire, behind what went along with the prompt."""
        nbytes = (last - first) * self.source.block_bytes
        if self._shipment is not None and not self.stage:
            nbytes += self._shipment.nbytes
        ends = (self.source.number, self.target.number)
        self.due, beside = self._wire.send(nbytes, *ends, now, self._computed)
        self.overlapped += beside
        self._computed = None
        self._copied = last
        self.stage += 1
        self.nbytes += nbytes

    def give_up(self) -> None:
        """Leave the request where it is, or with whoever ended it."""
        assert self._parcel is None, "a request that has left must arrive"
        self.target.release(self.move.id)
        if self._shipment is not None and not self.stage:
            self.nbytes += self._shipment.nbytes
        self.arrived = False
