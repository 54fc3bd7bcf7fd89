"""The caches of this processor, as the system describes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNIT = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class CacheLevel(NamedTuple):
    """A data cache that the first core uses, shared or its own: level from 1, capacity in bytes."""

    level: int
    capacity: int


def cache_levels(root: Path = _CACHES) -> list[CacheLevel]:
    """Data caches from the nearest to the last; empty where `root` (Linux' folder) does not tell."""
    found = []
    for index in sorted(root.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and match is not None and level.isdecimal():
            found.append(CacheLevel(int(level), int(match[1]) * _UNIT.get(match[2], 1)))
    return sorted(found)


def last_cache_bytes(root: Path = _CACHES) -> int:
    """Capacity of the last cache; 0 where the system does not tell."""
    return max((cache.capacity for cache in cache_levels(root)), default=0)
