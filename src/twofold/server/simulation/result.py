"""What a simulation of the request lifecycle has played."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class LifecycleResult:
    """What was played: counts of requests by the way they ended, of events and of injected faults.

    resent: jobs that were given to a second worker; stale: events of workers that were lost already; digest:
    of all ends and their moments, equal for equal seeds.
    """

    seed: int
    requests: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    episodes: int = 0
    events: int = 0
    steps: int = 0
    tokens: int = 0
    cached_tokens: int = 0
    workers: int = 0
    resent: int = 0
    stale: int = 0
    digest: int = 0

    def count(self, id: str, end: str, now: float) -> None:
        """A request has ended, one way or another."""
        self.ended[end] += 1
        self.digest = zlib.crc32(f"{id} {end} {now!r}".encode(), self.digest)

    def add(self, other: LifecycleResult) -> None:
        """Add the counts of an episode."""
        for name in (f.name for f in fields(self) if f.name not in ("seed", "digest")):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.digest = zlib.crc32(other.digest.to_bytes(8, "little"), self.digest)
