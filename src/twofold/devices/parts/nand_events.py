"""A flash channel transfer by transfer: slow, and simple enough to be believed. The closed forms of `nand`
and `in_flash` are tested against it.

The bus takes the transfer that is ready first. Vectors and results of the cores go before pages, of which a
slice goes at a time. All dies do the same at the same time; a page is sensed into a plane's first register
once that is empty, and moves to the second once that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from twofold.devices.parts.in_flash import InFlash, tile_of


@dataclass(slots=True)
class _Plane:
    """empty: when its first register is; sent: when its second one is."""

    empty: float = 0.0
    sent: float = 0.0

    def next_page(self, read: float) -> float:
        """When its next page is in the second register, and sensing may go on."""
        self.empty = max(self.empty + read, self.sent)
        return self.empty


@dataclass(slots=True)
class FlashChannel:
    """One channel. busy: seconds that its bus was taken; bus: when it is free."""

    flash: InFlash
    bus: float = 0.0
    busy: float = 0.0

    def _send(self, ready: float, seconds: float) -> float:
        self.bus = max(self.bus, ready) + seconds
        self.busy += seconds
        return self.bus

    def read(self, pages: int) -> float:
        """Send `pages`, dealt out over all planes; returns when the last has left."""
        s, t = self.flash.nand.shape, self.flash.nand.timing
        planes = [_Plane() for _ in range(s.channel_dies * s.planes)]
        for number in range(pages):
            plane = planes[number % len(planes)]
            plane.sent = self._send(plane.next_page(t.read), self.flash.nand.page_seconds)
        return self.bus

    def multiply(
        self, rounds: int, outside: int, bits: float, vectors: int, wire: int, slice_bytes: int
    ) -> float:
        """`rounds` of the cores, and `outside` pages from the dies' other planes that go out in slices of
        `slice_bytes`; returns when both are done."""
        nand = self.flash.nand
        s, t = nand.shape, nand.timing
        tile = tile_of(nand, bits)
        result, inputs = (vectors * elements * wire / t.transfer for elements in tile)
        waiting: list[tuple[float, int, float]] = []  # ready, round whose inputs they are (-1: results), time
        if rounds:
            heappush(waiting, (0.0, 0, inputs))
        slices = self._slices(outside, slice_bytes)
        upcoming = next(slices, None)
        idle = done = 0.0
        while waiting or upcoming is not None:
            if waiting and (upcoming is None or max(self.bus, waiting[0][0]) <= max(self.bus, upcoming[0])):
                ready, number, seconds = heappop(waiting)
                done = max(done, self._send(ready, seconds))
                if number < 0:
                    continue
                moved = max(self.bus + t.read, idle)  # to the register that the core reads
                idle = moved + self.flash.page_seconds(vectors)
                for _ in range(s.channel_dies):
                    heappush(waiting, (idle, -1, result))
                if number + 1 < rounds:
                    heappush(waiting, (moved, number + 1, inputs))
            else:
                assert upcoming is not None
                done = max(done, self._send(*upcoming))
                upcoming = next(slices, None)
        return done

    def _slices(self, pages: int, slice_bytes: int) -> Iterator[tuple[float, float]]:
        """When each slice of so many pages is ready, and its seconds on the bus. Asked for one at a time,
        since a plane's next page waits for its last."""
        s, t = self.flash.nand.shape, self.flash.nand.timing
        planes = [_Plane() for _ in range(s.channel_dies)]
        for number in range(pages):
            plane = planes[number % len(planes)]
            ready, left = plane.next_page(t.read), s.page_bytes
            while left > 0:
                yield ready, min(left, slice_bytes) / t.transfer
                left -= slice_bytes
            plane.sent = self.bus
