"""Latency of each memory level: dependent loads through ever larger pieces of memory, in an order that no
prefetcher can guess.

Source of the method: McVoy, Staelin, "lmbench: portable tools for performance analysis", USENIX 1996, with a
random cycle in huge pages, so that neither prefetching nor address translation is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twofold.kernels.cpu import extension
from twofold.measure.caches import CacheLevel

LINE = 64
"""Bytes between loads: a cache line, so that each load is one."""

SEED = 1


class Latency(NamedTuple):
    """Seconds per load within a working set of `nbytes`."""

    nbytes: int
    seconds: float


def latencies(sizes: Sequence[int], loads: int, repeats: int = 3) -> list[Latency]:
    """Fastest of `repeats` chains of `loads` loads per size, after one that warms up."""
    module = extension()
    found = []
    for nbytes in sizes:
        chase = module.PointerChase(nbytes, LINE, SEED)
        chase.seconds(min(loads, nbytes // LINE))
        found.append(Latency(nbytes, min(chase.seconds(loads) for _ in range(repeats))))
    return found


def level_sizes(caches: Sequence[CacheLevel], largest: int) -> list[tuple[str, int]]:
    """(level, working set) for each cache and for what lies behind them: half a cache's capacity, but at
    least twice that of the one before; four times the last cache for memory. Sizes above `largest` are left
    out; where that cuts off memory itself, `largest` stands for everything behind the caches that are
    left."""
    found: list[tuple[str, int]] = []
    before = 0
    for cache in caches:
        size = max(cache.capacity // 2, 2 * before)
        if size > largest:
            return [*found, (f"beyond L{cache.level - 1}", largest // LINE * LINE)]
        found.append((f"L{cache.level}", size // LINE * LINE))
        before = cache.capacity
    if 4 * before > largest:
        return (
            [*found, (f"beyond L{caches[-1].level}", largest // LINE * LINE)] if largest > before else found
        )
    return [*found, ("memory", (4 * before or largest) // LINE * LINE)]
