"""The NPU that NeuPIMs extends, without processing in memory: systolic arrays, vector units and HBM.

Source: Heo et al., "NeuPIMs: NPU-PIM heterogeneous acceleration for batched LLM inferencing" (ASPLOS 2024,
arXiv:2403.00579), its baseline "NPU-only", with the figures of the published simulator. Weights, cache and
activations pass the pins while arrays and vector units work on what came before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from twofold.devices.links import Link
from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.dram import NS, Dram, DramEnergy, DramShape, DramTiming
from twofold.devices.parts.energy import Process
from twofold.devices.parts.hbm import PINS
from twofold.devices.parts.systolic import Product, SystolicArray
from twofold.devices.parts.vector_unit import Arithmetic, VectorUnit, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Embedding, Linear, Op

_ELEMENT = 2  # bytes of an fp16
_NODE = Process(7)

ARTEFACT = "github.com/casys-kaist/NeuPIMs @f299af3, configs: "
_POWER = ARTEFACT + "extern/NewtonSim/configs/HBM2_8Gb_x128_dualpim.ini, by DRAMsim3's formulas: "
SOURCES = {
    "hbm.shape": ARTEFACT + "memory_configs/neupims.json: 32 channels of 1 GiB, 32 banks each, rows of 1 KiB",
    "hbm.shape.column_bytes": ARTEFACT + "16 fp16 multipliers a bank; a burst of 64 bytes is two of them",
    "hbm.timing": ARTEFACT + "extern/NewtonSim/configs/HBM2_8Gb_x128_dualpim.ini (tCK 1 ns); a burst of 4 on "
    "128 pins takes 2 ns; the first multiply waits for 16 banks of a rank, opened by fours (3 tFAW + tRCD)",
    "hbm.energy.activate": _POWER + "VDD (IDD0 tRC - IDD3N tRAS - IDD2N tRP)",
    "hbm.energy.read, hbm.energy.write": _POWER + "VDD (IDD4R or IDD4W - IDD3N) tBurst, for half a burst",
    "hbm.energy.mac": ARTEFACT + "four times the energy of a read (arXiv:2403.00579, power overhead)",
    "hbm.energy.bus": "O'Connor et al., MICRO 2017, table 3, as public models quote it: 0.80 pJ a bit",
    "hbm.energy.refresh, hbm.energy.standby, hbm.energy.active": _POWER + "two ranks a channel",
    "array.rows, array.columns, array.arrays, array.hertz": ARTEFACT + "systolic_ws_128x128_dev.json",
    "array.joules": "Horowitz (ISSCC 2014), fp16 with fp32 sums, scaled to 7 nm; assumption: the node, that "
    "of a TPU v4",
    "vector.multipliers, vector.adders, vector.hertz, vector.latency": ARTEFACT
    + "systolic_ws_128x128_dev.json: 8 units of 128 lanes, operations of one cycle; assumption: a multiplier "
    "and an adder in each lane",
    "vector.mul_joules, vector.add_joules": "Horowitz (ISSCC 2014), fp16, scaled to 7 nm",
    "sram_joules": "Horowitz (ISSCC 2014), 1 MiB, scaled to 7 nm; " + ARTEFACT + "spad_size 1 MiB",
    "idle_watts": "assumption: as a TPU v4, which has as many arrays of that size: 90 W idle with its HBM "
    "(devices/catalog/tpu-v4.yaml), of which 4 W are counted as standby of the memory",
    "link_bandwidth, link_latency": "assumption: NVLink 3 as on the GPU it is compared with; the paper says "
    "PCIe or CXL, and its simulator has no messages",
    "link_joules": "assumption: 10 pJ a bit, as PCIe and NVLink of its time",
}
"""Where each figure of `NpuFigures` comes from."""


def _hbm() -> Dram:
    """The memory of the published simulator: HBM2 of two ranks a channel."""
    timing = DramTiming(
        rcd_read=14 * NS,
        rcd_write=14 * NS,
        rcd_mac=(3 * 30 + 14) * NS,
        rp=14 * NS,
        ras=34 * NS,
        rc=48 * NS,
        ccd=1 * NS,
        ccd_mac=2 * NS,
        rtp=4 * NS,
        wr=16 * NS,
        cl=14 * NS,
        cwl=4 * NS,
        rrd=4 * NS,
        faw=30 * NS,
        rfc=260 * NS,
        refi=3900 * NS,
    )
    volts, burst = 1.2, 2 * NS
    energy = DramEnergy(
        activate=volts * (65e-3 * 48 - 55e-3 * 34 - 40e-3 * 14) * NS,
        read=volts * (390e-3 - 55e-3) * burst / 2,
        write=volts * (500e-3 - 55e-3) * burst / 2,
        mac=4 * volts * (390e-3 - 55e-3) * burst,
        bus=PINS,
        refresh=2 * volts * (250e-3 - 55e-3) * 260 * NS,
        standby=2 * volts * 40e-3,
        active=2 * volts * 55e-3,
    )
    return Dram(DramShape(32, 32, 32768, 1024, 32), timing, energy)


@dataclass(frozen=True, slots=True)
class NpuFigures:
    """The machine. Defaults: SOURCES says where each comes from. sram_joules: of a byte between array and
    buffers; idle_watts: of all but the memory; link_*: bytes/s per direction, seconds per step, joules per
    byte."""

    hbm: Dram = field(default_factory=_hbm)
    array: SystolicArray = field(
        default_factory=lambda: SystolicArray(128, 128, 1e9, _NODE.mac("fp16", "fp32"), "ws", arrays=8)
    )
    vector: VectorUnit = field(
        default_factory=lambda: VectorUnit(
            1024, 1024, 1e9, mul_joules=_NODE.mul("fp16"), add_joules=_NODE.add("fp16")
        )
    )
    sram_joules: float = _NODE.sram_byte(1 << 20)
    idle_watts: float = 86.0
    link_bandwidth: float = 300e9
    link_latency: float = 0.6e-6
    link_joules: float = 80e-12


class NeupimsNpu(Machine):
    """The modelled machine. `figures`: its numbers."""

    name = "neupims-npu"
    title = "The NPU of NeuPIMs with plain HBM"
    kind = "npu"
    source = "baseline of NeuPIMs, arXiv:2403.00579; ASPLOS 2024"
    note = "not validated by measurement; arithmetic takes the energy of its units, without wires and control"
    precisions = ("bf16", "fp16")
    sources = SOURCES
    more: ClassVar[tuple[str, ...]] = (
        "hbm.shape.channels",
        "array.arrays",
        "array.hertz",
        "vector.multipliers",
        "vector.hertz",
    )
    most = 8

    figures: NpuFigures

    def __init__(self, figures: NpuFigures | None = None, *, tp: int = 1) -> None:
        f = figures or NpuFigures()
        link = Link(f.link_bandwidth, f.link_latency, direct=True)
        watts = f.idle_watts + f.hbm.standby_watts
        super().__init__(f, memory=f.hbm.shape.nbytes, idle_watts=watts, tp=tp, link=link if tp > 1 else None)
        self.link_joules = f.link_joules

    def peaks(self) -> Peaks:
        """Of the pins and the arrays."""
        f = self.figures
        flop = 2 * f.array.macs_per_second
        joules = f.hbm.energy.read / f.hbm.shape.column_bytes
        return Peaks(f.hbm.bus_bandwidth, dict.fromkeys(self.precisions, flop), joules, f.array.joules / 2)

    # --- what an op takes ---

    def linear(self, op: Linear) -> Work:
        """Weights stay in the arrays while all tokens pass; the vector units widen packed ones."""
        self._check(op)
        return self._product(op, op.tokens)

    def _product(self, op: Linear, tokens: int) -> Work:
        f = self.figures
        inputs, outputs = op.in_features // op.groups, op.out_features // op.groups
        moved = op.weight_bytes + tokens * (op.in_features + op.out_features) * op.act_bytes
        work = self._multiply(Product(tokens, inputs, outputs, op.groups)).beside(f.hbm.stream(moved))
        return work.beside(self._flop(op.vector_flop * tokens // op.tokens))

    def _multiply(self, product: Product) -> Work:
        f = self.figures
        run = f.array.run(product)
        operands = (run.read_a + run.read_b) * _ELEMENT + (run.sums_written + run.sums_read) * 2 * _ELEMENT
        return f.array.work(product).beside(Work.of("sram", 0.0, operands * f.sram_joules))

    def attention(self, op: Attention) -> Work:
        """The cache over the pins, products in the arrays, the softmax of other heads in the vector units."""
        self._check(op)
        return self._on_npu(op, op.cache_bytes, decode=True)

    def _on_npu(self, op: Attention, cache_bytes: int, *, decode: bool) -> Work:
        """Attention of prompts and, with `decode`, of single queries, for which `cache_bytes` are read."""
        f, t = self.figures, op.totals
        group = op.heads // op.kv_heads
        queries, seqs = t.queries - t.singles, t.num_seqs - t.singles
        pairs = t.pairs - t.single_keys
        work = NOTHING
        if queries:
            rows, keys = -(-queries // seqs) * group, -(-pairs // queries)
            times = op.kv_heads * seqs
            work = self._multiply(Product(rows, op.head_dim, keys, times))
            work = work.then(self._multiply(Product(rows, keys, op.v_dim, times)))
        if decode and t.singles:
            # Keys of all sequences follow each other through the arrays.
            work = work.then(self._multiply(Product(group, op.head_dim, t.single_keys, op.kv_heads)))
            work = work.then(self._multiply(Product(group, t.single_keys, op.v_dim, op.kv_heads)))
            queries, pairs = t.queries, t.pairs
        if not queries:
            return NOTHING
        acts = queries * op.heads * (op.head_dim + op.v_dim) * op.act_bytes
        rows_of_scores = softmax(-(-pairs // queries)) * (queries * op.heads)
        work = work.beside(f.hbm.stream(cache_bytes + acts)).beside(f.vector.run(rows_of_scores))
        return work.beside(self._flop(op.widen_flop))

    def cache_write(self, op: CacheWrite) -> Work:
        """New entries over the pins; the vector units pack them."""
        self._check_space(op, op.space)
        return self.figures.hbm.store(op.cache_bytes).beside(self._flop(op.pack_flop))

    def embedding(self, op: Embedding) -> Work:
        """Rows of the table over the pins, and the sums of several tables."""
        return self.figures.hbm.stream(op.tokens * op.tables * op.row_bytes).beside(self.elementwise(op))

    def elementwise(self, op: Op) -> Work:
        """On the vector units; activations come from and go to the memory."""
        arithmetic = arithmetic_of(op)
        assert arithmetic is not None
        return self.figures.vector.run(arithmetic).beside(self.figures.hbm.stream(op.cost().bytes_moved))

    def _flop(self, flop: int) -> Work:
        """Elementwise work that ops count in FLOP: half of it products."""
        half = -(-flop // 2)
        return self.figures.vector.run(Arithmetic(half, half, 2)) if flop else NOTHING

    # --- refusals ---

    def _check(self, op: Linear | Attention) -> None:
        self.check_precision(op)
        self._check_space(op, op.space)
        if type(op) not in (Linear, Attention):
            raise self.refusal(op, "its arrays multiply dense matrices alone; plan without this technique")

    def _check_space(self, op: Op, space: str) -> None:
        if space != "device":
            raise self.refusal(op, f"it has no memory {space!r}; keep weights and cache in device memory")


MACHINE = NeupimsNpu
