"""SambaNova SN40L: units for arithmetic and for memory that a whole decoder layer is laid out on, and three
tiers of memory.

Source: Prabhakar et al., "SambaNova SN40L: scaling the AI memory wall with dataflow and composition of
experts" (arXiv:2405.07518; MICRO 2024). Ops of a layer are stages of one pipeline: intermediates go from unit
to unit through on-chip memory, only weights and cache stream from HBM, and a layer is one launch, which the
chip itself orchestrates. Sums over sockets stream through the same pipeline. DDR beside every socket is the
space "host": what is placed there streams from it, and `Copy` brings a whole model into HBM.

`sn40l-unfused` is the source's baseline: one launch an op from the host, intermediates in HBM.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from twofold.devices.links import Link, Peers
from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.energy import Process
from twofold.devices.parts.vector_unit import VectorUnit, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Collective, Copy, Embedding, ExpertMLP, Linear, Op
from twofold.ops.base import DEVICE, HOST, Precision

_FORMATS = ("bf16", "f16", "fp16")
_TILE, _LINK = "tile", "link"

PAPER = "arXiv:2405.07518v2, MICRO 2024, "
SOURCES = {
    "flop": PAPER + "table II: 638 BF16 TFLOPs",
    "simd.multipliers, simd.adders": "assumption: 16 lanes in each of 1,040 PCUs (table II has no widths; "
    "16 is Plasticine's, ISCA 2017)",
    "simd.hertz": "assumption: 1.6 GHz; table II says less than 2 GHz",
    "simd.latency": "assumption: stages are pipelined; long streams hide them",
    "simd.mul_joules, simd.add_joules": "parts/energy.py: FP32 at 7 nm, the finest node of its source (the "
    "chip is made at 5 nm)",
    "pmu_bytes": PAPER + "section I: 520 MiB in 1,040 PMUs",
    "process.node": "7 nm, the finest of parts/energy.py; the chip is made at 5 nm",
    "hbm.nbytes, ddr.nbytes": PAPER + "section I: 64 GiB and 1.5 TiB per socket",
    "hbm.bandwidth, ddr.bandwidth": PAPER + "table II: 1.8 TB/s and 200 GB/s per socket",
    "hbm.share": PAPER + "section VI-C: close to 85 % of the bandwidth",
    "ddr.share": PAPER + "section VI-C: over 1 TB/s from DDR to HBM on eight sockets",
    "hbm.joules": "O'Connor et al., Fine-Grained DRAM, MICRO 2017: 3.92 pJ a bit (HBM2)",
    "ddr.joules": "Horowitz, ISSCC 2014: 1.3 nJ for 64 bits",
    "commands": PAPER + "section IV-D: program load, argument load, kernel execute",
    "command_seconds": "assumption: an access to the chip's own memory, 0.1 us; the source measured "
    "'virtually zero'",
    "link": "assumption: not published; PCIe Gen 5 x16 in each direction and a microsecond a message",
    "link_joules": "as PCIe Gen 5 in catalog/shared/energy.yaml",
    "watts": "a rack of 16 sockets draws 10 kW on average in inference (SambaNova, as reported in 2025), "
    "hosts included",
}
"""Where each figure of `Sn40lFigures` comes from."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A memory. nbytes; bandwidth: its peak, bytes/s; share: of it that streams reach; joules: of a byte."""

    nbytes: int
    bandwidth: float
    share: float
    joules: float

    def __post_init__(self) -> None:
        if self.nbytes < 1 or not self.bandwidth > 0 or not 0 < self.share <= 1 or self.joules < 0:
            raise ValueError(
                f"memory: a size and a bandwidth are positive and a share is from 0 to 1, not {self.nbytes}, "
                f"{self.bandwidth} and {self.share}"
            )

    @property
    def speed(self) -> float:
        """Bytes per second that streams reach."""
        return self.bandwidth * self.share


@dataclass(frozen=True, slots=True)
class Sn40lFigures:
    """A socket. Defaults: SOURCES says where each comes from.

    flop: per second, in bf16; simd: the PCUs as lanes; pmu_bytes: of one on-chip memory unit; commands,
    command_seconds: of a launch by the chip itself; link: to the other sockets; watts: of a socket with its
    share of the host, with memory and arithmetic busy.
    """

    flop: float = 638e12
    simd: VectorUnit = field(
        default_factory=lambda: VectorUnit(
            1040 * 16, 1040 * 16, 1.6e9, 1, Process(7).mul("fp32"), Process(7).add("fp32")
        )
    )
    pmu_bytes: int = 512 * 1024
    process: Process = field(default_factory=lambda: Process(7))
    hbm: Tier = field(default_factory=lambda: Tier(64 << 30, 1.8e12, 0.85, 31.4e-12))
    ddr: Tier = field(default_factory=lambda: Tier(3 << 39, 200e9, 0.625, 162.5e-12))
    commands: int = 3
    command_seconds: float = 0.1e-6
    link: Link = field(
        default_factory=lambda: Link(63e9, 1e-6, direct=True, peers=Peers(1e-6, 63e9, float(1 << 20)))
    )
    link_joules: float = 52e-12
    watts: float = 625.0

    def __post_init__(self) -> None:
        if not self.flop > 0 or self.pmu_bytes < 1 or self.commands < 0 or self.command_seconds < 0:
            raise ValueError(
                f"sn40l: flop and pmu_bytes are positive and launches take no negative time, not "
                f"{self.flop}, {self.pmu_bytes}, {self.commands} commands of {self.command_seconds} s"
            )
        if not self.watts >= self.busy_watts:
            raise ValueError(
                f"sn40l: its arithmetic and HBM alone draw {self.busy_watts:.0f} W, more than watts "
                f"({self.watts})"
            )

    @property
    def flop_joules(self) -> float:
        """Of a FLOP: half a multiply-accumulate of 16-bit numbers into 32 bits."""
        return self.process.mac("fp16", "fp32") / 2

    @property
    def sram_joules(self) -> float:
        """Of a byte into or out of an on-chip memory unit."""
        return self.process.sram_byte(self.pmu_bytes)

    @property
    def busy_watts(self) -> float:
        """Dynamic power of products and of HBM at their peaks."""
        return self.flop * self.flop_joules + self.hbm.bandwidth * self.hbm.joules


class Sn40l(Machine):
    """The modelled machine: one socket, or one of up to eight that share a model."""

    name = "sn40l"
    title = "SambaNova SN40L"
    kind = "dataflow"
    source = "SN40L, arXiv:2405.07518; MICRO 2024"
    note = (
        "not validated by measurement; products that memory does not bound run at peak rate (assumption), "
        "and numbers in fp16 are taken to be converted as they stream"
    )
    precisions = ("bf16", "fp16")
    sources = SOURCES
    more: ClassVar[tuple[str, ...]] = ("flop", "hbm.bandwidth", "simd.multipliers", "simd.hertz")
    most = 8

    figures: Sn40lFigures

    def __init__(self, figures: Sn40lFigures | None = None, *, tp: int = 1) -> None:
        f = figures or Sn40lFigures()
        super().__init__(f, memory=f.hbm.nbytes, idle_watts=f.watts - f.busy_watts, tp=tp, link=f.link)
        self.memory[HOST] = f.ddr.nbytes
        self.link_joules = f.link_joules

    def peaks(self) -> Peaks:
        """Of a socket, its HBM as the fastest memory that holds weights or cache."""
        f = self.figures
        flop: dict[Precision, float] = dict.fromkeys(self.precisions, f.flop)
        return Peaks(f.hbm.bandwidth, flop, f.hbm.joules, f.flop_joules)

    # --- how stages overlap ---

    def unit(self, op: Op) -> str:
        """Long messages stream beside the other stages of the pipeline; short ones are waited for."""
        if isinstance(op, Collective):
            f = self.figures
            return _LINK if op.cost().sent / f.link.bandwidth > f.link.latency else ""
        return _TILE

    def overlapped(self, seconds: float, busy: dict[str, float]) -> float:
        """See `ModelledDevice.overlapped`."""
        return seconds - min(busy.get(_TILE, 0.0), busy.get(_LINK, 0.0))

    # --- what an op takes ---

    def work(self, op: Op) -> Work:
        """See `Machine.work`. What is fetched from DDR is counted by the products that stream it."""
        if op.kind == "fetch":
            return NOTHING
        stage, launches = self.stage(op), self.launches(op)
        seconds = launches * self.figures.commands * self.figures.command_seconds
        return Work.of("host", seconds).then(stage) if launches else stage

    def stage(self, op: Op) -> Work:
        """What an op takes once it is launched."""
        return super().work(op)

    def launches(self, op: Op) -> int:
        """Kernels that begin with an op: one a layer, counted with its attention."""
        return int(isinstance(op, Attention))

    def linear(self, op: Linear) -> Work:
        """Weights stream past inputs that are on the chip."""
        if type(op) is not Linear or op.format not in _FORMATS:
            raise self.refusal(
                op,
                f"its units multiply dense bf16 weights, not {type(op).__name__} of {op.format}; store the "
                "weights as bf16",
            )
        self.check_precision(op)
        return self._stream(op.weight_bytes, op.space, op).beside(self._products(op))

    def experts(self, op: ExpertMLP) -> Work:
        """Weights of the experts that tokens are routed to stream past them."""
        if op.format not in _FORMATS:
            raise self.refusal(op, f"its units multiply bf16 weights, not {op.format}; store them as bf16")
        self.check_precision(op)
        return self._stream(op.touched * op.expert_bytes, op.space, op).beside(self._products(op))

    def attention(self, op: Attention) -> Work:
        """The cache streams past the queries; scores stay on the chip."""
        if type(op) is not Attention or op.widen_flop:
            raise self.refusal(op, "it streams a dense bf16 cache; keep one, without sparse attention")
        self.check_precision(op)
        t = op.totals
        keys = -(-t.pairs // max(1, t.queries))
        scores = self.figures.simd.run(softmax(keys) * (op.heads * t.queries))
        return self._stream(op.cache_bytes, op.space, op).beside(self._products(op)).beside(scores)

    def cache_write(self, op: CacheWrite) -> Work:
        """New entries into HBM or DDR."""
        if op.pack_flop:
            raise self.refusal(op, "it stores keys and values as they are; keep a dense cache")
        return self._stream(op.cache_bytes, op.space, op)

    def embedding(self, op: Embedding) -> Work:
        """Rows of the table."""
        return self._stream(op.tokens * op.tables * op.row_bytes, DEVICE, op)

    def elementwise(self, op: Op) -> Work:
        """A stage of the pipeline, on units of its own."""
        arithmetic = arithmetic_of(op)
        assert arithmetic is not None
        moved = sum(read + written for _, read, written, _ in op.cost().traffic)
        return self.figures.simd.run(arithmetic).then(Work(0.0, {"sram": moved * self.figures.sram_joules}))

    def copy(self, op: Copy) -> Work:
        """Between DDR and HBM, beside every socket."""
        if {op.source, op.target} != {DEVICE, HOST}:
            return super().copy(op)
        f = self.figures
        return Work.of("dram", op.nbytes / f.ddr.speed, op.nbytes * (f.ddr.joules + f.hbm.joules))

    def _products(self, op: Linear | Attention | ExpertMLP) -> Work:
        cost = op.cost()
        f = self.figures
        moved = sum(read + written for role, read, written, _ in cost.traffic if role == "activations")
        joules = {"array": cost.flop * f.flop_joules, "sram": moved * f.sram_joules}
        return Work(cost.flop / f.flop, joules, {"array": cost.flop / f.flop})

    def _stream(self, nbytes: float, space: str, op: Op) -> Work:
        """`nbytes` of weights or cache from or to the memory of `space`."""
        if space not in self.memory:
            raise self.refusal(op, f"it has no memory {space!r}; it has {', '.join(self.memory)}")
        tier = self.figures.hbm if space == DEVICE else self.figures.ddr
        return Work.of("dram", nbytes / tier.speed, nbytes * tier.joules)


MACHINE = Sn40l
