"""FleetPolicy: the seam through which a technique decides where requests run, and the Move that it asks for.

A fleet keeps what must always hold (a request is in one place, blocks are reserved before anything is copied,
a move that has become impossible is given up); a policy only says where a request begins and which are to
move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from twofold.fleet.load import Load, Resident


class Arrival(NamedTuple):
    """A request that has come: its id, the tokens of its prompt, its priority (lower is more important)."""

    id: str | int
    prompt_tokens: int
    priority: int


class Move(NamedTuple):
    """Request `id` is to go on at instance `target`; it is at instance `source`."""

    id: str | int
    source: int
    target: int


class Onward(NamedTuple):
    """Where a request is to go on once its prompt is computed: instance `target`. The cache of a prompt of
    `layerwise_from` tokens or more goes there layer by layer, beside the step that computes the last of
    it."""

    target: int
    layerwise_from: int


@dataclass(frozen=True, slots=True)
class Stages:
    """How a request moves while it goes on: full blocks are copied in stages; where no more than
    `last_stage_max_blocks` are left, or at stage `max_stages`, it stops for the rest."""

    max_stages: int
    last_stage_max_blocks: int


class Member(Protocol):
    """An instance as a policy sees it."""

    @property
    def load(self) -> Load:
        """What it has to do now."""

    @property
    def decoding(self) -> Sequence[Resident]:
        """The requests that generate on it: a part of its load."""


class FleetPolicy(Protocol):
    """What a technique over several instances provides.

    devices: the device of each instance, by its number (None: the plan's); stages: how requests move while
    they go on (None: they stop, and what is left of the cache is copied at once); counters: what was done, by
    name.
    """

    name: str
    devices: Sequence[str | None]
    stages: Stages | None
    counters: dict[str, int]

    def dispatch(self, request: Arrival, members: Sequence[Member]) -> int:
        """The number of the instance that `request` begins at."""

    def goes_on(self, id: str | int) -> Onward | None:
        """Where request `id`, just dispatched, will be moved right after its prompt; None where it stays or
        nobody knows yet."""

    def moves(self, members: Sequence[Member], now: float) -> list[Move]:
        """Requests that are to move, asked after every step of any instance. Requests on the way are not
        named again."""

    def moved(self, move: Move, arrived: bool) -> None:
        """`move` has ended: the request is at the target, or stays where it was (or has ended there)."""

    def ended(self, id: str | int) -> None:
        """Request `id` is over."""
