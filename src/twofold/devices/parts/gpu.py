"""A processor of the catalogue as a part of a machine that is built around it."""

from __future__ import annotations

from twofold.devices.catalog import energy_table, get_device
from twofold.devices.cluster import Cluster
from twofold.devices.efficiency.energy import EnergyModel
from twofold.devices.parts.work import Work
from twofold.ops.base import Op

_PART = {"compute": "array", "memory": "dram", "link": "link", "overhead": "host"}


class Gpu:
    """The device called `name`, one of `tp`. rank: its roofline; watts: what clocks and leakage draw on top
    of idle power while it is in use."""

    def __init__(self, name: str, tp: int = 1) -> None:
        file = get_device(name)
        self.rank = Cluster(file, tp=tp).rank()
        self.watts = EnergyModel(file, energy_table()).active_watts

    def work(self, op: Op) -> Work:
        """What `op` takes on it. Its joules are booked with what bounds it: a roofline has no parts."""
        charge = self.rank.charge(op, op.cost())
        return Work.of(_PART[charge.bound], charge.seconds, charge.joules)

    def waits(self, seconds: float) -> Work:
        """What it burns while another part of the machine works for `seconds`: too short to stop its
        clocks."""
        return Work.of("array", 0.0, seconds * self.watts)
