"""A device described by its peaks: seconds are the larger of compute and memory time, plus the share of the
smaller that the larger does not hide, plus what an op costs besides.

compute = matrix FLOP / (peak · efficiency of the shape) + elementwise FLOP / vector rate

memory = the slowest memory space, where a space takes its bytes / its bandwidth

(Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009.)

Weights and cache stream from the memory unless the whole deployed plan (`resident_bytes`) fits the cache;
activations come from the cache as far as they fit. Energy is counted per FLOP and per byte by memory level;
idle power comes on top per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from twofold.devices.catalog import energy_table
from twofold.devices.gemm import tiled_flop
from twofold.devices.links import Group, collective_seconds
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.devices.precision import NATIVE, WIDER
from twofold.devices.schema import DeviceFile
from twofold.ops.attention import Attention
from twofold.ops.base import DEVICE, DISK, HOST, Cost, Op, Precision
from twofold.ops.linear import ExpertMLP, Linear
from twofold.ops.movement import Collective

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
        self.native_precision = next((p for p in NATIVE if p in file.matmul), "fp32")
        self._overhead = eff.op.value
        self._exposed = eff.exposed.value
        self._collective = eff.collective.value
        self._vector = file.vector.value * eff.vector.value
        self._attention = eff.attention.value
        self._rates = self._make_rates()
        self._set_energy()
        self._set_stores()
        self._memory_bandwidth = file.memory.bandwidth.value * eff.memory.value
        self._cache_capacity, self._cache_bandwidth = self._cache()
        self.resident_bytes = 0

    # --- what is read from the file once ---

    def _make_rates(self) -> dict[Precision, tuple[float, float, Precision]]:
        """By precision: peak FLOP/s, joules per FLOP, and the precision that is used for it."""
        file = self.file
        span = file.power.limit.value - file.power.idle.value
        rates: dict[Precision, tuple[float, float, Precision]] = {}
        for precision in get_args(Precision):
            for used in (precision, *WIDER[precision]):
                if used in file.matmul:
                    peak = file.matmul[used].value
                    own = file.energy.flop.get(used)
                    rates[precision] = (peak, own.value if own else span / peak, used)
                    break
            else:
                if (
                    precision != "fp64"
                ):  # matrix products without matrix units run on the vector units, in fp32
                    rates[precision] = (file.vector.value, span / file.vector.value, "fp32")
        return rates

    def _set_energy(self) -> None:
        file, table = self.file, energy_table()
        span = file.power.limit.value - file.power.idle.value
        own = file.energy
        self._vector_energy = own.vector_flop.value if own.vector_flop else span / file.vector.value
        self._memory_energy = (own.memory or table.memory[file.memory.technology]).value
        self._cache_energy = (own.cache or table.cache).value
        self._host_energy = table.link["pcie"].value
        link = "ethernet" if file.link is None else file.link.technology
        self._link_energy = (own.link or table.link[link]).value

    def _set_stores(self) -> None:
        """Bandwidth of host memory and disk; disk data pass the host's link too, where there is one."""
        self._stores: dict[str, tuple[float, float]] = {}
        host, disk = self.file.host, self.file.disk
        if host is not None:
            self._stores[HOST] = (host.bandwidth.value, host.latency.value if host.latency else 0.0)
        if disk is not None:
            slowest = min(disk.bandwidth.value, host.bandwidth.value) if host else disk.bandwidth.value
            self._stores[DISK] = (slowest, disk.latency.value if disk.latency else 0.0)

    def _cache(self) -> tuple[float, float]:
        """Capacity and reached bandwidth of the cache; (0, …) where nothing is known of it."""
        cache, eff = self.file.cache, self.file.efficiency
        if cache is None or cache.bandwidth is None:
            return 0.0, self._memory_bandwidth
        return cache.capacity.value, cache.bandwidth.value * eff.cache.value

    # --- what the deployed plan sets ---

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
        return self._cache_bandwidth if nbytes <= self._cache_capacity else self._memory_bandwidth

    def roofs(self) -> tuple[dict[str, float], dict[str, float]]:
        """Bytes/s by memory level and FLOP/s by precision that can be reached: what a roofline plot is
        bounded by."""
        reads = {"memory": self._memory_bandwidth}
        if self._cache_capacity:
            reads["cache"] = self._cache_bandwidth
        peaks: dict[str, float] = {
            p: f.value * self.file.efficiency.matmul.value for p, f in self.file.matmul.items()
        }
        return reads, peaks

    @property
    def bandwidth(self) -> float:
        """Bytes/s at which weights and cache are read."""
        return self._stream

    # --- charging ---

    def charge(self, op: Op, cost: Cost) -> Charge:
        """Seconds and joules of `op`; ValueError for a precision, memory space or collective that the
        device lacks."""
        if isinstance(op, Collective):
            return self._charge_collective(op, cost)
        seconds, joules = self._traffic(op, cost)
        compute = cost.vector_flop / self._vector
        joules += cost.vector_flop * self._vector_energy
        if cost.flop:
            flop_seconds, flop_joules = self._matmul(op, cost)
            compute += flop_seconds
            joules += flop_joules
        overhead = self._overhead_of(op)
        if compute > seconds:
            busy, bound = compute + self._exposed * seconds, "compute"
        else:
            busy, bound = seconds + self._exposed * compute, "memory"
        return Charge(busy + overhead, joules, "overhead" if overhead > busy else bound)

    def _overhead_of(self, op: Op) -> float:
        """Seconds that `op` costs besides its work."""
        return self._overhead

    def _stream_of(self, op: Op) -> float:
        """Bytes/s at which `op` reads weights and cache."""
        return self._stream

    def _matmul(self, op: Op, cost: Cost) -> tuple[float, float]:
        """Seconds and joules of the matrix FLOP."""
        try:
            peak, energy, used = self._rates[cost.precision]
        except KeyError:
            raise ValueError(
                f"{self.name} cannot multiply in {cost.precision} (asked by {type(op).__name__}); "
                f"it offers {', '.join(sorted(self.file.matmul))}"
            ) from None
        joules = cost.flop * energy
        return self._product_seconds(op, cost, used, peak), joules

    def _product_seconds(self, op: Op, cost: Cost, used: Precision, peak: float) -> float:
        """Seconds of the matrix FLOP, done in precision `used` at `peak` FLOP/s."""
        if isinstance(op, Attention):
            return cost.flop / (peak * self._attention)
        # Vector units, which stand in where the matrix units lack a precision, have no tiles to fill.
        flop = self._occupied(op, cost) if used in self.file.matmul else cost.flop
        return flop / (peak * self.file.efficiency.matmul.value)

    def _occupied(self, op: Op, cost: Cost) -> float:
        """FLOP that the matrix units are kept busy for, those lost to tiles and waves included."""
        eff = self.file.efficiency
        if not eff.tiles:
            return cost.flop
        assert eff.split_depth is not None
        units, split = int(self.file.units.count.value), int(eff.split_depth.value)
        if isinstance(op, Linear):
            depth, cols = op.in_features // op.groups, op.out_features // op.groups
            return tiled_flop(
                op.tokens, depth, cols, units=units, tiles=eff.tiles, split_depth=split, batch=op.groups
            )
        if isinstance(op, ExpertMLP):
            experts = max(op.touched, 1.0)
            rows = -(-op.pairs // int(experts))
            up = tiled_flop(
                rows,
                op.hidden,
                op.ffn * (op.matrices - 1),
                units=units,
                tiles=eff.tiles,
                split_depth=split,
                batch=experts,
            )
            down = tiled_flop(
                rows, op.ffn, op.hidden, units=units, tiles=eff.tiles, split_depth=split, batch=experts
            )
            return max(up + down, cost.flop)
        return cost.flop

    def _traffic(self, op: Op, cost: Cost) -> tuple[float, float]:
        """Seconds of the slowest memory space and joules of all."""
        near = joules = far = 0.0
        stream = self._stream_of(op)
        for role, read, written, space in cost.traffic:
            nbytes = read + written
            if space == DEVICE:
                if role == "activations":
                    seconds, energy = self._activations(nbytes)
                    near += seconds
                    joules += energy
                else:
                    near += nbytes / stream
                    joules += nbytes * self._memory_energy
            elif nbytes:
                if space not in self._stores:
                    raise ValueError(
                        f"{self.name} has no memory {space!r} (asked by {type(op).__name__}); "
                        f"it has {', '.join(self.memory)}"
                    )
                bandwidth, latency = self._stores[space]
                far = max(far, nbytes / bandwidth + latency)
                joules += nbytes * (self._host_energy + self._memory_energy)
        return max(near, far), joules

    def _activations(self, nbytes: float) -> tuple[float, float]:
        """Seconds and joules of activations: from the cache as far as they fit, the rest from memory."""
        cached = min(nbytes, self._cache_capacity)
        rest = nbytes - cached
        seconds = cached / self._cache_bandwidth
        if rest:
            seconds += rest / self._memory_bandwidth
        return seconds, cached * self._cache_energy + rest * self._memory_energy

    def _charge_collective(self, op: Collective, cost: Cost) -> Charge:
        group = self.groups.get(op.group)
        if group is None:
            raise ValueError(
                f"{self.name} stands alone, but {type(op).__name__} wants {op.world} devices "
                f"in group {op.group!r}: deploy the plan on a cluster with {op.group}={op.world}"
            )
        seconds = collective_seconds(op, group) + self._collective
        joules = cost.sent * self._link_energy
        return Charge(seconds, joules, "link" if seconds > 2 * self._collective else "overhead")
