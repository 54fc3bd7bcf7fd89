"""A device at its theoretical peak: what the datasheet allows if nothing were ever lost. A bound, not a
prediction."""

from __future__ import annotations

from twofold.devices.catalog import get_device
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.devices.precision import NATIVE, WIDER
from twofold.devices.schema import DeviceFile
from twofold.ops.base import DEVICE, DISK, HOST, Cost, Op
from twofold.ops.movement import Collective


class PeakDevice(ModelledDevice):
    """Charges every op the larger of its FLOP over the peak rate and its bytes over the bandwidth of the
    slowest memory it touches: no efficiency, no overhead, no cache that would keep activations.

    file: the device; host_bandwidth: bytes/s to host memory where another figure than the file's is wanted.
    Energy is not modelled.
    """

    confidence = "datasheet"

    def __init__(
        self, file: DeviceFile, *, num_devices: int = 1, host_bandwidth: float | None = None
    ) -> None:
        super().__init__()
        self.name = f"{file.name} at its peak"
        self.file = file
        self.num_devices = num_devices
        self.linkable = file.link is not None or file.network is not None
        self.native_precision = next((p for p in NATIVE if p in file.matmul), "fp32")
        self.memory = {DEVICE: int(file.memory.capacity.value)}
        self._bandwidth = {DEVICE: file.memory.bandwidth.value}
        for space, store in ((HOST, file.host), (DISK, file.disk)):
            if store is not None:
                self._bandwidth[space] = store.bandwidth.value
                if store.capacity is not None:
                    self.memory[space] = int(store.capacity.value)
        if host_bandwidth is not None:
            self._bandwidth[HOST] = host_bandwidth

    def charge(self, op: Op, cost: Cost) -> Charge:
        """Seconds of `op`; ValueError for a memory that the device lacks, or a collective without links."""
        if isinstance(op, Collective):
            link = self.file.link or self.file.network
            if link is None:
                raise ValueError(f"{self.file.name} has no links to other devices")
            return Charge(cost.sent / link.bandwidth.value, 0.0, "link")
        moved: dict[str, float] = {}
        for part in cost.traffic:
            moved[part.space] = moved.get(part.space, 0.0) + part.read + part.written
        for space, nbytes in moved.items():
            if nbytes and space not in self._bandwidth:
                raise ValueError(f"{self.file.name} has no memory {space!r} (asked by {type(op).__name__})")
        memory = max((nbytes / self._bandwidth[s] for s, nbytes in moved.items() if nbytes), default=0.0)
        compute = cost.vector_flop / self.file.vector.value
        if cost.flop:
            used = next((p for p in (cost.precision, *WIDER[cost.precision]) if p in self.file.matmul), None)
            compute += cost.flop / (self.file.matmul[used].value if used else self.file.vector.value)
        return Charge(max(memory, compute), 0.0, "memory" if memory >= compute else "compute")


def peak_device(name: str, *, num_devices: int = 1) -> PeakDevice:
    """The catalogued device `name` (or the file of that path) at its peak."""
    return PeakDevice(get_device(name), num_devices=num_devices)
