"""Deterministic simulation of the engine's heart: the real scheduler and block manager, under virtual time,
with random loads, settings and faults, against a model that notices when its cache is wrong.

Everything follows from the seed. A failure names seed, episode and step, and `simulate(..., episode=...)`
replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol, Self, TypeVar

from twofold.engine.episode import Episode, SimulationResult

REQUESTS_PER_EPISODE = 500


class SimulationError(AssertionError):
    """An invariant broke; the message says which and how to replay it."""


class Counts(Protocol):
    """What was played: sums over episodes."""

    requests: int

    def add(self, other: Self) -> None:
        """Add the counts of an episode."""


CountsT = TypeVar("CountsT", bound=Counts)
CountsT_co = TypeVar("CountsT_co", bound=Counts, covariant=True)


class Playable(Protocol[CountsT_co]):
    """An episode. step: how far it is, to find a failure again."""

    @property
    def step(self) -> int:
        """How far it is."""

    def play(self) -> CountsT_co:
        """Run it to its end. Any broken invariant raises."""


def simulate(
    num_requests: int = 100_000,
    *,
    seed: int = 0,
    faults: bool = True,
    progress: Callable[[int, int], None] | None = None,
    episode: int | None = None,
) -> SimulationResult:
    """Play `num_requests` requests in episodes of 500, each with settings of its own.

    faults: memory is taken away and given back, requests are cancelled, everything is aborted at times.
    progress: called with (requests played, num_requests) after each episode. episode: play only that one.
    Raises SimulationError.
    """

    def make(rng: Random, size: int) -> Episode:
        return Episode(rng, size, seed=seed, faults=faults)

    return play_episodes(make, SimulationResult(seed), num_requests, seed, faults, progress, episode)


def play_episodes(
    make: Callable[[Random, int], Playable[CountsT]],
    total: CountsT,
    num_requests: int,
    seed: int,
    faults: bool,
    progress: Callable[[int, int], None] | None,
    episode: int | None,
) -> CountsT:
    """Play the episodes that `make` (random numbers, requests) makes, or only one of them, and add them up in
    `total`. Raises SimulationError."""
    if num_requests < 1:
        raise ValueError(f"num_requests is {num_requests}; it must be at least 1")
    count = -(-num_requests // REQUESTS_PER_EPISODE)
    if episode is not None and not 0 <= episode < count:
        raise ValueError(f"episode is {episode}; {num_requests} requests make episodes 0 to {count - 1}")
    for index in range(count) if episode is None else [episode]:
        size = min(REQUESTS_PER_EPISODE, num_requests - index * REQUESTS_PER_EPISODE)
        played = make(Random(f"{seed}/{index}"), size)
        try:
            total.add(played.play())
        except Exception as error:
            raise SimulationError(
                f"seed {seed}, episode {index}, step {played.step}: {type(error).__name__}: {error}. "
                f"Replay: simulate({num_requests}, seed={seed}, faults={faults}, episode={index})"
            ) from error
        if progress is not None:
            progress(total.requests, num_requests)
    return total
