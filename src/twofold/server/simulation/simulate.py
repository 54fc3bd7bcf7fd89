"""Simulate the server's request lifecycle. Everything follows from the seed. A failure names seed, episode
and step (an event of the timeline), and `simulate(..., episode=...)` replays it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from twofold.engine.simulate import play_episodes
from twofold.server.simulation.episode import Episode
from twofold.server.simulation.result import LifecycleResult


def simulate(
    num_requests: int = 100_000,
    *,
    seed: int = 0,
    faults: bool = True,
    progress: Callable[[int, int], None] | None = None,
    episode: int | None = None,
) -> LifecycleResult:
    """Play `num_requests` requests in episodes of 500, each with a server of its own settings.

    faults: clients leave, deadlines are short, workers are killed, slowed and lose memory, steps fail, and
    the server is drained at random moments. progress: called with (requests played, num_requests) after each
    episode. episode: play only that one. Raises `engine.simulate.SimulationError`.
    """

    def make(rng: Random, size: int) -> Episode:
        return Episode(rng, size, seed=seed, faults=faults)

    return play_episodes(make, LifecycleResult(seed), num_requests, seed, faults, progress, episode)
