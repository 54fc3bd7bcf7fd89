"""Wire: what cache blocks go over from one instance to another, and when they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twofold.devices.base import Device
from twofold.devices.links import Link
from twofold.devices.roofline import Roofline
from twofold.devices.schema import DeviceFile


class Computed(NamedTuple):
    """A step that computed what is sent: when it began and ended, and its layers."""

    start: float
    end: float
    layers: int


class Delivery(NamedTuple):
    """When what is sent has arrived; beside: bytes of it that had when the step that computed it ended."""

    due: float
    beside: int


class Wire:
    """Links between all pairs of instances, of which each sends one message at a time and receives one.

    link: None where a copy takes its time by itself; joules: per byte.
    """

    def __init__(self, link: Link | None, joules: float = 0.0) -> None:
        self.link = link
        self.joules = joules
        self._sending: dict[int, float] = {}
        self._receiving: dict[int, float] = {}

    def send(
        self, nbytes: int, source: int, target: int, now: float, computed: Computed | None = None
    ) -> Delivery:
        """Send `nbytes` from instance `source` to `target`.

        computed: the step that ends now; its layers are sent one by one as they are ready, so that only the
        last of them is left when it ends, unless the link is the slower of the two.
        """
        if self.link is None:
            return Delivery(now, 0)
        free = max(self._sending.get(source, 0.0), self._receiving.get(target, 0.0))
        beside = 0.0
        if computed is None:
            arrival = max(now, free) + self.link.seconds(1, nbytes)
        else:
            layer = (computed.end - computed.start) / computed.layers
            first = max(computed.start + layer, free)
            last = max(computed.end, free) + self.link.seconds(1, nbytes / computed.layers)
            taken = self.link.seconds(computed.layers, nbytes)
            arrival = max(first + taken, last)
            beside = min(max(0.0, computed.end - first) / taken, 1 - 1 / computed.layers)
        self._sending[source] = self._receiving[target] = arrival
        return Delivery(arrival, round(beside * nbytes))


def wire_between(devices: Sequence[Device], ranks: int) -> Wire:
    """The wire among instances on `ranks` devices each like those of `devices`.

    Equal instances that share a node use its links; others the network between nodes, or, on devices that
    have none, the memory of the host, which is written and read; of different devices the slowest counts.
    Every rank sends its own share at the same time. ValueError for a device without any of these.
    """
    if any(device.real for device in devices):
        return Wire(None)
    rooflines = [device for device in devices if isinstance(device, Roofline)]
    if len(rooflines) < len(devices):
        name = next(device.name for device in devices if not isinstance(device, Roofline))
        raise ValueError(f"{name} is a single machine; instances that send each other caches need links")
    equal = len({device.name for device in devices}) == 1
    links = [_link(device.file, equal and ranks * len(devices)) for device in rooflines]
    slowest = min(range(len(links)), key=lambda i: links[i].bandwidth)
    return Wire(links[slowest], rooflines[slowest].link_joules)


def _link(file: DeviceFile, together: int) -> Link:
    """How devices described by `file` reach others; together: how many may share a node (0: none do)."""
    efficiency = file.efficiency.collective
    if file.link is not None and 0 < together <= file.link.devices.value:
        return efficiency.within(file.link.bandwidth.value, file.link.latency.value, direct=file.link.direct)
    if file.network is not None:
        return efficiency.between(file.network.bandwidth.value, file.network.latency.value)
    if file.host is not None:
        latency = file.host.latency.value if file.host.latency is not None else 0.0
        return Link(file.host.bandwidth.value / 2, 2 * latency)
    return Link(file.memory.bandwidth.value / 2, 0.0)  # instances on one processor: a copy in its memory
