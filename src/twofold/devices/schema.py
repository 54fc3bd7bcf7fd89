"""What a device file may say: the sections of a catalogue entry, each figure with its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from twofold.devices.calibration import Curves
from twofold.devices.efficiency.attention import AttentionEfficiency
from twofold.devices.efficiency.collective import CollectiveEfficiency
from twofold.devices.efficiency.elementwise import ElementwiseEfficiency
from twofold.devices.efficiency.energy import DynamicEnergy
from twofold.devices.efficiency.products import ProductEfficiency
from twofold.devices.figures import (
    Bandwidth,
    Bytes,
    Count,
    EnergyPerByte,
    EnergyPerFlop,
    Figure,
    FlopRate,
    Money,
    Ratio,
    Seconds,
    Strict,
    Watts,
)
from twofold.devices.microbench import Microbenchmarks
from twofold.errors import nearest
from twofold.ops.base import Precision

Kind = Literal["gpu", "tpu", "cpu", "laptop", "phone"]


class Units(Strict):
    """What a matrix product is spread over. count: SMs, compute units, matrix units or cores."""

    count: Count


class Memory(Strict):
    """The memory beside the compute units. technology: a key of the shared energy table; capacity: what the
    device offers; ecc: share of the bandwidth that is left where error-correcting codes travel over the same
    pins as the data (GDDR6 with ECC switched on)."""

    technology: str
    capacity: Bytes
    bandwidth: Bandwidth
    ecc: Ratio | None = None


class Cache(Strict):
    """The last cache before the memory; without a bandwidth it is known but not used."""

    capacity: Bytes
    bandwidth: Bandwidth | None = None


class Store(Strict):
    """A memory that is reached over a link (host memory, disk): what the link moves per direction, and
    what it holds."""

    bandwidth: Bandwidth
    latency: Seconds | None = None
    capacity: Bytes | None = None


class DeviceLink(Strict):
    """Links among devices. bandwidth: per device and direction; devices: how many are linked this way (a
    node); direct: whether every pair is connected (a switch or full mesh), so that one-step collectives
    are possible."""

    technology: str
    bandwidth: Bandwidth
    latency: Seconds
    devices: Count
    direct: bool


class Network(Strict):
    """The network between nodes: bandwidth per device and direction."""

    bandwidth: Bandwidth
    latency: Seconds


class Power(Strict):
    """Watts of one device, idle and at its limit. The dynamic energy of a FLOP is (limit - idle) / peak
    rate."""

    idle: Watts
    limit: Watts


class Energy(Strict):
    """Figures that replace the derived or shared ones."""

    flop: dict[Precision, EnergyPerFlop] = Field(default_factory=dict)
    vector_flop: EnergyPerFlop | None = None
    memory: EnergyPerByte | None = None
    cache: EnergyPerByte | None = None
    link: EnergyPerByte | None = None


class Efficiency(Strict):
    """How ops of each kind use a device. Shared by the devices of a generation.

    products, elementwise, attention, collective: see the classes; step: seconds of host work per step;
    energy: what the chip draws while it works.
    """

    products: ProductEfficiency
    elementwise: ElementwiseEfficiency
    attention: AttentionEfficiency
    collective: CollectiveEfficiency
    step: Seconds
    energy: DynamicEnergy | None = None


class Generation(Strict):
    """A file of shared efficiencies."""

    name: str
    sources: dict[str, str]
    efficiency: Efficiency


class Price(Strict):
    """What a device costs."""

    per_hour: Money | None = None
    purchase: Money | None = None


class DeviceFile(Strict):
    """One device. matmul: dense matrix FLOP/s by precision, without sparsity; vector: elementwise FLOP/s
    (fp32).

    efficiency: the name of a generation's file, or the section itself; generation: whose efficiencies these
    are, that name by default. stored_weights, cache_format: how weights and cache entries are held where a
    plan leaves it open, see `devices.base.Device`.
    """

    name: str
    title: str
    kind: Kind
    generation: str = ""
    confidence: Literal["datasheet", "calibrated"] = "datasheet"
    sources: dict[str, str]
    efficiency: Efficiency
    units: Units
    matmul: dict[Precision, FlopRate]
    vector: FlopRate
    memory: Memory
    cache: Cache | None = None
    host: Store | None = None
    disk: Store | None = None
    link: DeviceLink | None = None
    network: Network | None = None
    power: Power
    energy: Energy = Energy()
    curves: Curves | None = None
    stored_weights: bool = False
    cache_format: str | None = None
    price: Price | None = None
    microbenchmarks: Microbenchmarks | None = None

    @model_validator(mode="after")
    def _consistent(self) -> DeviceFile:
        if not self.matmul:
            raise ValueError(f"{self.name}: matmul names no precision")
        if self.power.limit.value < self.power.idle.value:
            raise ValueError(f"{self.name}: the power limit is below the idle power")
        for path, figure in figures(self):
            if figure.source not in self.sources:
                raise ValueError(
                    f"{self.name}: {path} names source {figure.source!r}, which is not among its sources; "
                    f"{nearest(figure.source, self.sources)}"
                )
        return self


def figures(part: Strict, path: str = "") -> Iterator[tuple[str, Figure]]:
    """Every figure in a file with its dotted path."""
    for name in type(part).model_fields:
        yield from _figures(getattr(part, name), f"{path}.{name}" if path else name)


def _figures(value: Any, path: str) -> Iterator[tuple[str, Figure]]:
    if isinstance(value, Figure):
        yield path, value
    elif isinstance(value, Strict):
        yield from figures(value, path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _figures(item, f"{path}.{key}")
