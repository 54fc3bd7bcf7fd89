"""Ops that move data: between memory spaces of one device, and between devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from twofold.ops.base import Cost, Op, Role, Traffic

Group = Literal["tp", "pp", "ep", "dp"]


@dataclass(frozen=True, slots=True)
class Copy(Op):
    """Move `nbytes` from one memory space to another (swapping cache blocks, fetching offloaded weights), in
    `pieces` that are contiguous on both sides, each of which is a transfer of its own."""

    kind: ClassVar[str] = "copy"
    nbytes: int
    source: str
    target: str
    role: Role = "cache"
    pieces: int = 1

    def cost(self) -> Cost:
        """Read there, written here."""
        return Cost(
            traffic=(
                Traffic(self.role, self.nbytes, 0, self.source),
                Traffic(self.role, 0, self.nbytes, self.target),
            )
        )


@dataclass(frozen=True, slots=True)
class MapPages(Op):
    """Let `pages` physical pages of `page_bytes` bytes appear at addresses of the device, in `runs` of pages
    that follow each other in both. Moves no data: what it takes is calls of the operating system or the
    driver."""

    kind: ClassVar[str] = "map-pages"
    pages: int
    page_bytes: int
    runs: int

    def cost(self) -> Cost:
        """Nothing that is computed or moved."""
        return Cost()


@dataclass(frozen=True, slots=True)
class Collective(Op):
    """A message of `nbytes` per participant among the `world` devices of a parallel group."""

    kind: ClassVar[str] = "collective"
    nbytes: int
    world: int
    group: Group


@dataclass(frozen=True, slots=True)
class AllReduce(Collective):
    """Every device ends with the sum of all messages. A bandwidth-optimal algorithm sends 2·(n-1)/n of the
    message."""

    def cost(self) -> Cost:
        """Bytes sent per device."""
        return Cost(sent=2.0 * self.nbytes * (self.world - 1) / self.world)


@dataclass(frozen=True, slots=True)
class AllGather(Collective):
    """Every device ends with all messages of `nbytes` each; each device sends its own to the n-1 others."""

    def cost(self) -> Cost:
        """Bytes sent per device."""
        return Cost(sent=float(self.nbytes * (self.world - 1)))


@dataclass(frozen=True, slots=True)
class AllToAll(Collective):
    """Every device holds `nbytes`, of which it keeps 1/n and sends the rest, each part to its own
    receiver."""

    def cost(self) -> Cost:
        """Bytes sent per device."""
        return Cost(sent=self.nbytes * (self.world - 1) / self.world)


@dataclass(frozen=True, slots=True)
class Send(Collective):
    """`nbytes` from one pipeline stage to the next; `world` is the number of stages."""

    def cost(self) -> Cost:
        """Bytes sent."""
        return Cost(sent=float(self.nbytes))
