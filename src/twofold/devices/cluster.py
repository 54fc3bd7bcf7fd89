"""A deployment on several equal devices: where ranks are placed, and which links their groups use.

All ranks are alike, so a cluster is modelled by one of them with the links of its groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from twofold.devices.calibrated import Calibrated
from twofold.devices.links import Group
from twofold.devices.roofline import Roofline
from twofold.devices.schema import DeviceFile


@dataclass(frozen=True)
class Cluster:
    """tp · pp · dp devices of one kind.

    Ranks are placed so that those who talk most are nearest: tensor parallelism innermost, then expert
    parallelism where it spans replicas, then pipeline stages, then replicas. ep is 1, tp, or tp · dp.
    """

    device: DeviceFile
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "ep"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.ep not in (1, self.tp, self.tp * self.dp):
            allowed = sorted({1, self.tp, self.tp * self.dp})
            raise ValueError(f"ep={self.ep} does not fit tp={self.tp}, dp={self.dp}; allowed: {allowed}")
        if self.num_devices > self.per_node and self.device.network is None:
            raise ValueError(
                f"{self.device.name} can be linked {self.per_node} at a time, not {self.num_devices}: "
                f"its file names no network between nodes"
            )
        self.groups()

    @property
    def num_devices(self) -> int:
        """Devices of the deployment."""
        return self.tp * self.pp * self.dp

    @property
    def per_node(self) -> int:
        """Devices that are linked directly, within a node."""
        return 1 if self.device.link is None else int(self.device.link.devices.value)

    @property
    def nodes(self) -> int:
        """Nodes that the deployment takes."""
        return -(-self.num_devices // self.per_node)

    def groups(self) -> dict[str, Group]:
        """The parallel groups of one rank, by name; groups of one are left out."""
        spanning = (
            self.ep > self.tp
        )  # experts over replicas: replicas talk, so they are placed before pipeline stages
        dp_stride = self.tp if spanning else self.tp * self.pp
        pp_stride = self.tp * self.dp if spanning else self.tp
        layout = {
            "tp": (self.tp, 1),
            "ep": (self.ep, 1),
            "dp": (self.dp, dp_stride),
            "pp": (self.pp, pp_stride),
        }
        return {name: self._group(name, *place) for name, place in layout.items() if place[0] > 1}

    def _group(self, name: str, size: int, stride: int) -> Group:
        """The group of `size` ranks that stand `stride` apart."""
        local = min(size, max(1, self.per_node // stride))
        file = self.device
        efficiency = file.efficiency.collective
        inner = outer = None
        if (link := file.link) is not None:
            inner = efficiency.within(link.bandwidth.value, link.latency.value, direct=link.direct)
        if (network := file.network) is not None:
            outer = efficiency.between(network.bandwidth.value, network.latency.value)
        if name == "pp":
            homes = [rank * stride // self.per_node for rank in range(size)]
            crossing = sum(a != b for a, b in pairwise(homes)) / (size - 1)
            return Group(size, 1, inner or outer, outer, crossing)
        if size % local:
            raise ValueError(
                f"{name}={size} cannot be spread evenly over nodes of {self.per_node} {file.name}: "
                f"take a divisor or a multiple of {self.per_node}"
            )
        return Group(local, size // local, inner if local > 1 else None, outer if size > local else None)

    def rank(self) -> Roofline:
        """One rank of the deployment, whose energy is that of all ranks that do the same at the same time."""
        kind = Roofline if self.device.curves is None else Calibrated
        return kind(self.device, self.groups(), ranks=self.tp * self.dp, num_devices=self.num_devices)
