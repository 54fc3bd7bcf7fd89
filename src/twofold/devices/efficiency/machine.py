"""The plain numbers of a device that models of ops compute with."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twofold.devices.schema import DeviceFile


@dataclass(frozen=True, slots=True)
class Machine:
    """Peaks of one device in SI units, from its datasheet.

    units: SMs, compute units or cores; memory_bandwidth: bytes/s of data, error-correcting codes taken off;
    cache_capacity: bytes of the last cache, cache_bandwidth: bytes/s of it (0 where unknown); vector:
    elementwise FLOP/s; power: watts at most.
    """

    units: int
    memory_bandwidth: float
    cache_capacity: float
    cache_bandwidth: float
    vector: float
    power: float = inf

    @classmethod
    def of(cls, file: DeviceFile) -> Machine:
        """The numbers of a device file."""
        cache, memory = file.cache, file.memory
        return cls(
            units=int(file.units.count.value),
            memory_bandwidth=memory.bandwidth.value * (memory.ecc.value if memory.ecc else 1.0),
            cache_capacity=cache.capacity.value if cache is not None else 0.0,
            cache_bandwidth=cache.bandwidth.value if cache is not None and cache.bandwidth else 0.0,
            vector=file.vector.value,
            power=file.power.limit.value,
        )
