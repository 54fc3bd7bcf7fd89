"""A device described by its peaks and by how ops of each kind use them.

Matrix products, attention and elementwise ops each have a model of their own (`devices.efficiency`), which
bounds them by compute, by memory and by a fixed time (Williams, Waterman, Patterson, "Roofline: an insightful
visual performance model", CACM 2009). Data in other memory spaces (host, disk) come over their link at the
same time.

Weights and cache stream from the memory unless the whole deployed plan (`resident_bytes`) fits the cache;
activations come from the cache as far as they fit. Energy is counted per FLOP and per byte by memory level;
idle power comes on top per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

from twofold.devices.catalog import energy_table
from twofold.devices.efficiency.attention import AttentionTime
from twofold.devices.efficiency.elementwise import ElementwiseTime
from twofold.devices.efficiency.energy import EnergyModel
from twofold.devices.efficiency.kernels import USUAL, Kernels
from twofold.devices.efficiency.machine import Machine
from twofold.devices.efficiency.products import ProductTime
from twofold.devices.links import Group, collective_seconds
from twofold.devices.mapping import CPU_PAGE_BYTES, mapping_seconds
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.devices.precision import NATIVE, WIDER
from twofold.devices.schema import DeviceFile
from twofold.ops.attention import Attention
from twofold.ops.base import DEVICE, DISK, HOST, Cost, Op, Precision
from twofold.ops.linear import BitPlaneLinear, ExpertMLP, Linear
from twofold.ops.movement import Collective, Copy, MapPages

_STREAMED = 1 << 62
"""Resident bytes assumed before a plan is deployed: more than any cache holds."""


class Roofline(ModelledDevice):
    """One device of the catalogue, or one rank of a cluster of them.

    groups: parallel groups by name ("tp", "pp", "dp", "ep") for collectives; ranks: devices whose ops are the
    same at the same time; num_devices: all devices of the deployment.
    """

    def __init__(
        self,
        file: DeviceFile,
        groups: Mapping[str, Group] | None = None,
        *,
        ranks: int = 1,
        num_devices: int = 1,
    ) -> None:
        eff = file.efficiency
        # In a full pipeline the stages work on different steps, so a step pays the idle power of one stage's
        # ranks.
        super().__init__(idle_watts=file.power.idle.value * ranks, ranks=ranks, step_overhead=eff.step.value)
        self.file = file
        self.name = file.name
        self.generation = file.generation
        self.confidence = file.confidence
        self.num_devices = num_devices
        self.linkable = file.link is not None or file.network is not None
        self.groups = dict(groups or {})
        self.memory = {DEVICE: int(file.memory.capacity.value)}
        for space, store in ((HOST, file.host), (DISK, file.disk)):
            if store is not None and store.capacity is not None:
                self.memory[space] = int(store.capacity.value)
        self.stored_weights = file.stored_weights
        self.cache_format = file.cache_format
        if file.kind in ("cpu", "laptop", "phone"):
            self.page_bytes = CPU_PAGE_BYTES
        self.native_precision = next((p for p in NATIVE if p in file.matmul), "fp32")
        machine = self._machine = Machine.of(file)
        self.kernels = USUAL
        self.products = ProductTime(eff.products, machine)
        self.elementwise = ElementwiseTime(eff.elementwise, machine)
        self.attention = AttentionTime(eff.attention, machine)
        self._cache_capacity = machine.cache_capacity
        self._energy = EnergyModel(file, energy_table())
        self._rates = self._make_rates()
        self._set_stores()
        self.resident_bytes = 0

    # --- what is read from the file once ---

    def _make_rates(self) -> dict[Precision, tuple[float, float, Precision]]:
        """By precision: peak FLOP/s, joules per FLOP, and the precision that is used for it."""
        file = self.file
        rates: dict[Precision, tuple[float, float, Precision]] = {}
        for precision in get_args(Precision):
            for used in (precision, *WIDER[precision]):
                if used in file.matmul:
                    rates[precision] = (file.matmul[used].value, self._energy.flop(used), used)
                    break
            else:
                if (
                    precision != "fp64"
                ):  # matrix products without matrix units run on the vector units, in fp32
                    rates[precision] = (file.vector.value, self._energy.vector, "fp32")
        return rates

    def _set_stores(self) -> None:
        """Bandwidth of host memory and disk; disk data pass the host's link too, where there is one."""
        self._stores: dict[str, tuple[float, float]] = {}
        host, disk = self.file.host, self.file.disk
        if host is not None:
            self._stores[HOST] = (host.bandwidth.value, host.latency.value if host.latency else 0.0)
        if disk is not None:
            slowest = min(disk.bandwidth.value, host.bandwidth.value) if host else disk.bandwidth.value
            self._stores[DISK] = (slowest, disk.latency.value if disk.latency else 0.0)

    # --- what the deployed plan sets ---

    def use(self, kernels: Kernels) -> None:
        """Time products and attention with a software's `kernels` from here on."""
        if kernels != self.kernels:
            eff = self.file.efficiency
            self.kernels = kernels
            self.products = ProductTime(eff.products, self._machine, kernels)
            self.attention = AttentionTime(eff.attention, self._machine, kernels)
            self.forget_charges()

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights and cache that every step goes through; 0 = unknown, taken as more than a cache
        holds."""
        return self._resident

    @resident_bytes.setter
    def resident_bytes(self, nbytes: int) -> None:
        self._resident = nbytes
        self._stream = self.stream_bandwidth(nbytes or _STREAMED)
        self.forget_charges()

    def stream_bandwidth(self, nbytes: int) -> float:
        """Bytes/s at which `nbytes` that are gone through again and again are read."""
        return self.products.bandwidth(nbytes)

    def roofs(self) -> tuple[dict[str, float], dict[str, float]]:
        """Bytes/s by memory level and FLOP/s by precision that can be reached: what a roofline plot is
        bounded by."""
        reads = {"memory": self.products.memory_bandwidth}
        if self._cache_capacity:
            reads["cache"] = self.products.cache_bandwidth
        return reads, {p: f.value * self.products.matrix for p, f in self.file.matmul.items()}

    @property
    def bandwidth(self) -> float:
        """Bytes/s at which weights and cache are read."""
        return self._stream

    @property
    def link_joules(self) -> float:
        """Joules per byte sent over the device's links."""
        return self._energy.link

    # --- charging ---

    def charge(self, op: Op, cost: Cost) -> Charge:
        """Seconds and joules of `op`; ValueError for a precision, memory space or collective that the
        device lacks."""
        if isinstance(op, Collective):
            return self._charge_collective(op, cost)
        if isinstance(op, MapPages):
            return Charge(mapping_seconds(op, gpu=self.file.kind == "gpu"), 0.0, "overhead")
        far, joules = self._traffic(op, cost)
        joules += cost.vector_flop * self._energy.vector
        peak, used = 0.0, cost.precision
        if cost.flop:
            peak, energy, used = self._rate(op, cost)
            if isinstance(op, BitPlaneLinear) and used != op.compute:
                # Units of wider numbers take all planes at once.
                cost = replace(cost, flop=Linear.cost(op).flop)
            joules += cost.flop * energy
        seconds, bound = self._near(op, cost, used, peak)
        if far > seconds:
            seconds, bound = far, "memory"
        return Charge(seconds, self._energy.of_op(joules, seconds), bound)

    def _rate(self, op: Op, cost: Cost) -> tuple[float, float, Precision]:
        """Peak FLOP/s, joules per FLOP and precision of the matrix FLOP of `op`."""
        try:
            return self._rates[cost.precision]
        except KeyError:
            raise ValueError(
                f"{self.name} cannot multiply in {cost.precision} (asked by {type(op).__name__}); "
                f"it offers {', '.join(sorted(self.file.matmul))}"
            ) from None

    def _near(self, op: Op, cost: Cost, used: Precision, peak: float) -> tuple[float, str]:
        """Seconds of `op` on the units and the device's own memory, its matrix FLOP done in `used` at `peak`
        FLOP/s, and what bounds it."""
        if isinstance(op, Attention):
            return self.attention.seconds(op, cost, peak, self._resident)
        if isinstance(op, Linear | ExpertMLP) and cost.flop:
            seconds, bound = self.products.seconds(op, used, peak, self._resident)
            kernels, nbytes = self.products.passes(op)
            if kernels:
                seconds += self.elementwise.passes(kernels, nbytes, cost.vector_flop)
            return seconds, bound
        return self.elementwise.seconds(op, cost)

    def _traffic(self, op: Op, cost: Cost) -> tuple[float, float]:
        """Seconds of the slowest memory space beside the device's own, and joules of all."""
        joules = far = 0.0
        for role, read, written, space in cost.traffic:
            nbytes = read + written
            if space == DEVICE:
                if role == "activations":
                    joules += self._activation_joules(nbytes)
                else:
                    joules += nbytes * self._energy.memory
            elif nbytes:
                if space not in self._stores:
                    raise ValueError(
                        f"{self.name} has no memory {space!r} (asked by {type(op).__name__}); "
                        f"it has {', '.join(self.memory)}"
                    )
                bandwidth, latency = self._stores[space]
                pieces = op.pieces if isinstance(op, Copy) else 1
                far = max(far, nbytes / bandwidth + pieces * latency)
                joules += nbytes * (self._energy.host + self._energy.memory)
        return far, joules

    def _activation_joules(self, nbytes: float) -> float:
        """Joules of moving activations: those that fit stay in the cache."""
        cached = min(nbytes, self._cache_capacity)
        return cached * self._energy.cache + (nbytes - cached) * self._energy.memory

    def _charge_collective(self, op: Collective, cost: Cost) -> Charge:
        group = self.groups.get(op.group)
        if group is None:
            raise ValueError(
                f"{self.name} stands alone, but {type(op).__name__} wants {op.world} devices "
                f"in group {op.group!r}: deploy the plan on a cluster with {op.group}={op.world}"
            )
        seconds = collective_seconds(op, group)
        joules = cost.sent * self._energy.link
        joules = self._energy.of_op(joules, seconds)
        empty = collective_seconds(replace(op, nbytes=0), group)
        return Charge(seconds, joules, "link" if seconds > 2 * empty else "overhead")
