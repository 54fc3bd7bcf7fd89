"""Energy of one device: idle power for as long as it runs, clocks and leakage while ops run, and every FLOP
and byte.

    P = idle + active · limit · (share of time in ops) + joules per FLOP · FLOP/s + joules per byte · bytes/s,
        at most limit

A byte costs what its memory's technology takes (the shared table) and, on its way between the last cache and
the units, what moving it over the chip takes. A device that would draw more than its limit slows its clocks
until it draws the limit: dynamic energy is capped at what the limit leaves above idle in the time that the op
was charged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twofold.devices.figures import EnergyPerByte, EnergyPerFlop, Ratio, Strict
from twofold.ops.base import Precision

if TYPE_CHECKING:
    from twofold.devices.catalog import EnergyTable
    from twofold.devices.schema import DeviceFile

HOST_SHARE = 0.5
"""Of the power that a node's datasheet allows to everything but its accelerators, what is drawn while they
serve. Assumed: fans and processors are sized for more than inference, and no public figure splits it."""

NODE_REST_WATTS = 575.0
"""Per accelerator of a node of eight: NVIDIA DGX H100 datasheet, 10.2 kW less eight times 700 W, by eight."""


class DynamicEnergy(Strict):
    """What a generation's chips take while they work.

    active: share of the power limit that clocks and leakage draw while ops run, on top of idle; flop: joules
    per matrix FLOP in 16 bits, operands from registers included; transport: joules per byte moved over the
    chip between the last cache and the units.

    A FLOP takes at least what brings the device to its limit at its peak rate, since that is what the limit
    is made for. Other precisions than 16 bits are in proportion to the time of a FLOP at their peaks: the
    units draw the same at full rate.
    """

    active: Ratio
    flop: EnergyPerFlop
    transport: EnergyPerByte


class EnergyModel:
    """Joules of ops on the device of `file`.

    Without a section `energy` in its efficiency, a matrix FLOP takes (limit - idle) / peak rate, and neither
    clocks nor the chip's wires are counted. The file's own figures (`energy`) replace the derived ones.

    vector: joules per elementwise FLOP; memory, cache, host, link: per byte.
    """

    def __init__(self, file: DeviceFile, table: EnergyTable) -> None:
        section, own = file.efficiency.energy, file.energy
        self._file, self._section = file, section
        self._span = file.power.limit.value - file.power.idle.value
        transport = section.transport.value if section is not None else 0.0
        active = section.active.value * file.power.limit.value if section is not None else 0.0
        self.active_watts = min(active, self._span)
        self.vector = (
            own.vector_flop.value if own.vector_flop else (self._span - self.active_watts) / file.vector.value
        )
        self.memory = (own.memory or table.memory[file.memory.technology]).value + transport
        self.cache = (own.cache or table.cache).value + transport
        self.host = table.link["pcie"].value
        self.link = (own.link or table.link["ethernet" if file.link is None else file.link.technology]).value

    def flop(self, precision: Precision) -> float:
        """Joules per matrix FLOP in `precision`, which the device's matrix units offer."""
        file = self._file
        if (own := file.energy.flop.get(precision)) is not None:
            return own.value
        peak = file.matmul[precision].value
        half = file.matmul.get("bf16") or file.matmul.get("fp16")
        if self._section is None or half is None:
            return self._span / peak
        least = (self._span - self.active_watts) / half.value
        return max(self._section.flop.value, least) * half.value / peak

    def of_op(self, joules: float, seconds: float) -> float:
        """Dynamic energy of an op that takes `seconds` and whose FLOP and bytes take `joules`."""
        return min(joules + self.active_watts * seconds, self._span * seconds)


def whole_system_joules(joules: float, seconds: float, devices: int) -> float:
    """Energy of the nodes around `devices` accelerators that took `joules` in `seconds`: processors, memory,
    network and fans added, as a meter at the plug sees it. The building's cooling is not."""
    return joules + HOST_SHARE * NODE_REST_WATTS * devices * seconds
