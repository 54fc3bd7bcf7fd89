"""The plain numbers of a device that models of ops compute with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """Peaks of one device in SI units, as its datasheet gives them.

    units: SMs, compute units or cores; memory_bandwidth: bytes/s; cache_capacity: bytes of the last cache,
    cache_bandwidth: bytes/s of it (0 where unknown); vector: elementwise FLOP/s.
    """

    units: int
    memory_bandwidth: float
    cache_capacity: float
    cache_bandwidth: float
    vector: float
