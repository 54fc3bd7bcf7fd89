"""What starting work costs: an op that does nothing, through the engine's team of threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from twofold.kernels.cpu import extension
from twofold.measure.probe import quartile

OPS = 1000
PARK_SECONDS = 0.005
"""Longer than the team spins before its threads sleep (2 ms)."""


def launch_costs(team: Any, repeats: int) -> Sequence[tuple[str, float]]:
    """(what, seconds): per op of a replayed program (a barrier of the team); for a call from Python that
    wakes a waiting team; for one that wakes a team whose threads sleep."""
    module = extension()
    empty = module.Program(team)
    empty.record()
    module.copy(team, 0, 0, 0)
    empty.end()
    many = module.Program(team)
    many.record()
    for _ in range(OPS):
        module.copy(team, 0, 0, 0)
    many.end()

    def timed(program: Any, pause: float) -> float:
        times = []
        for _ in range(repeats):
            if pause:
                time.sleep(pause)
            else:
                program.run(0, len(program))  # the team is awake
            start = time.perf_counter()
            program.run(0, len(program))
            times.append(time.perf_counter() - start)
        return quartile(times)

    call = timed(empty, 0.0)
    return [
        ("op of a replayed step", max(0.0, timed(many, 0.0) - call) / (OPS - 1)),
        ("call, team awake", call),
        ("call, team asleep", timed(empty, PARK_SECONDS)),
    ]
