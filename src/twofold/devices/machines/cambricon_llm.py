"""Cambricon-LLM: an NPU and a flash chip as chiplets, the flash with a core on every die. Weights lie in the
flash, the KV cache in the NPU's DRAM.

Source: Yu et al., "Cambricon-LLM: a chiplet-based hybrid architecture for on-device inference of 70B LLM"
(arXiv:2409.15654; MICRO 2024). Every product with stored weights is shared between the dies' cores, which
multiply pages where they lie, and the NPU, to which the other pages go over the flash's channels
(`in_flash`); a prompt's products, attention, the cache and everything elementwise are the NPU's. Stored
integers are multiplied as they are, by the cores as by the NPU. This is the machine with the most flash; -m
and -s have less.

Not validated by measurement: no such machine exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.energy import Process
from twofold.devices.parts.in_flash import DieCore, InFlash, Split, tile_of
from twofold.devices.parts.nand import Nand, NandEnergy, NandShape, NandTiming, usual_energy
from twofold.devices.parts.sram import Sram
from twofold.devices.parts.systolic import Product, SystolicArray
from twofold.devices.parts.vector_unit import ADD, MUL, VectorUnit, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Embedding, Gather, Linear, Op

_READ_SECONDS = 30e-6
_REMEMBERED = 4096
_NPU = Process(7)

PAPER = "arXiv:2409.15654"
SIMPLESSD = "github.com/SimpleSSD/SimpleSSD @master, fil/config.cc, defaults"
SOURCES = {
    "shape": f"{PAPER}, table II: 32 channels of 8 chips (-m: 16 of 4, -s: 8 of 2) of 2 dies of 2 planes; "
    "pages of 16 KiB",
    "timing": f"{PAPER}, table II: tR 30 us; 1000 MT/s on 8 bits",
    "energy": f"{SIMPLESSD}: 3.3 V; 25 mA for tR, 10 mA on a bus at 400 MT/s, 30 uA in standby",
    "core.bytes_per_second": f"{PAPER}, section IV-A: 32 K operations for a page of 16 KiB in 20 us (1.6 "
    "GOPS of INT8); assumption: narrower and wider weights at the same bytes per second",
    "core.watts": f"{PAPER}, table IV: 1935.6 uW with buffers and error correction, at 65 nm; assumption: "
    "always on",
    "flash_bytes": f"{PAPER}, section III-B: 200 GB of NAND flash fit a chiplet",
    "array.rows, array.columns, array.hertz": f"{PAPER}, section VII-A: 16 x 16 at 1 GHz",
    "array.arrays": f"{PAPER}, section VII-A: as many as make its 2 TOPS; assumption: as fast on 16 bits",
    "array.joules": "assumption: an INT8 multiply-accumulate at 7 nm (`parts.energy`); the paper has none",
    "sfu": "assumption: 64 lanes at the array's clock, FP16 at 7 nm (`parts.energy`); no unit counts found",
    "sram": "assumption: 1 MiB at 7 nm (`parts.energy`), as fast as the lanes take two numbers and give one",
    "dram_bytes": f"{PAPER}, table V: 2 GB",
    "dram_bandwidth": f"{PAPER}, section VII-A: about 40 GB/s of LPDDR5X",
    "dram_joules": "devices/catalog/shared/energy.yaml: lpddr5",
    "idle_watts": "assumption: of the NPU, as the phone snapdragon-8-gen-3 in devices/catalog",
}
"""Where each figure of `CambriconFigures` comes from."""

_FORMATS = ("int4", "int8", "bf16", "f16")
"""Weights that the cores and the NPU multiply, by the beginning of their format's name."""


@dataclass(frozen=True, slots=True)
class CambriconFigures:
    """The machine. Defaults: SOURCES says where each comes from.

    flash_bytes: for weights; dram_bytes, dram_bandwidth, dram_joules: of the memory of the cache, the last
    per byte; array, sfu, sram: of the NPU; shared: whether the NPU takes part in products with weights.
    """

    shape: NandShape = field(default_factory=lambda: NandShape(32, 8, 2, 2, 16384))
    timing: NandTiming = field(default_factory=lambda: NandTiming(_READ_SECONDS, 1e9))
    energy: NandEnergy = field(default_factory=lambda: usual_energy(_READ_SECONDS))
    core: DieCore = field(default_factory=lambda: DieCore(16384 / 20e-6, 1935.6e-6))
    flash_bytes: int = 200_000_000_000
    array: SystolicArray = field(
        default_factory=lambda: SystolicArray(16, 16, 1e9, _NPU.mac("int8", "int32"), arrays=4)
    )
    sfu: VectorUnit = field(
        default_factory=lambda: VectorUnit(
            64, 64, 1e9, mul_joules=_NPU.mul("fp16"), add_joules=_NPU.add("fp16")
        )
    )
    sram: Sram = field(default_factory=lambda: Sram(1 << 20, 64 * 3 * 2 * 1e9, _NPU.sram_byte(1 << 20)))
    dram_bytes: int = 2_000_000_000
    dram_bandwidth: float = 40e9
    dram_joules: float = 31.4e-12
    idle_watts: float = 0.5
    shared: bool = True

    def __post_init__(self) -> None:
        for name in ("flash_bytes", "dram_bytes", "dram_bandwidth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"cambricon-llm: {name} must be positive, not {getattr(self, name)!r}")
        for name in ("dram_joules", "idle_watts"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"cambricon-llm: {name} must not be negative, not {getattr(self, name)!r}")


class CambriconLlm(Machine):
    """The modelled machine. `figures`: its numbers; `flash`: what multiplies in it."""

    name = "cambricon-llm"
    title = "Cambricon-LLM-L: NPU and flash chiplets with cores on the flash dies"
    kind = "in-flash"
    source = "Cambricon-LLM, arXiv:2409.15654; MICRO 2024"
    precisions = ("bf16", "fp16", "int8")
    sources = SOURCES
    more = ("shape.channels", "timing.transfer", "dram_bandwidth", "sfu.multipliers", "sfu.hertz")
    usual = CambriconFigures()

    figures: CambriconFigures

    def __init__(self, figures: CambriconFigures | None = None, *, tp: int = 1) -> None:
        f = figures or self.usual
        self.nand = Nand(f.shape, f.timing, f.energy)
        self.flash = InFlash(self.nand, f.core, f.array.rows, f.shared)
        self._splits: dict[tuple[int, int, float, int, int], Split] = {}
        watts = f.idle_watts + self.nand.standby_watts + f.shape.all_dies * f.core.watts
        super().__init__(f, memory=f.flash_bytes, idle_watts=watts, tp=tp)
        self.cache_memory = f.dram_bytes

    def peaks(self) -> Peaks:
        """Pages multiplied in place and pages sent out at the same time; the cache's memory is slower."""
        f = self.figures
        read = max(self.flash.core_bandwidth + self.nand.bus_bandwidth, f.dram_bandwidth)
        # A byte holds two weights at most, each multiplied and added.
        flop = 2 * f.array.macs_per_second + 4 * f.shape.all_dies * f.core.bytes_per_second
        joules = min(f.energy.read / f.shape.page_bytes, f.dram_joules)
        return Peaks(read, dict.fromkeys(self.precisions, flop), joules)

    # --- what an op takes ---

    def linear(self, op: Linear) -> Work:
        """Shared between the dies' cores and the NPU. Cores apply the scales of groups within a row
        themselves."""
        self._check(op)
        rows, columns = op.out_features // op.groups, op.in_features // op.groups
        bits = op.weight_bytes * 8 / (rows * columns * op.groups)
        split = self._split(rows, columns, bits, op.tokens, 1 if op.compute == "int8" else op.act_bytes)
        f = self.figures
        pages = split.inside + split.outside
        macs = rows * columns * op.tokens * split.outside / pages
        flash = Work(
            split.seconds,
            {
                "flash": self.nand.read_joules(pages, split.bus_bytes),
                "array": macs * f.array.joules,
            },
            {"in-flash" if split.inside else "flash": split.seconds},
        )
        # Scales of inputs and outputs, and the sums of what the cores of a row send.
        partial = -(-columns // tile_of(self.nand, bits).columns)
        sums = (MUL * ((rows + columns) * op.tokens)).then(ADD * (rows * partial * op.tokens))
        return flash.beside(f.sfu.run(sums)) * op.groups

    def attention(self, op: Attention) -> Work:
        """The cache comes from DRAM while the NPU multiplies; then the softmax."""
        if type(op) is not Attention or op.space != "device":
            raise self.refusal(
                op,
                "its NPU attends to the whole cache in its DRAM; leave out what says otherwise",
            )
        self.check_precision(op)
        t, f = op.totals, self.figures
        if t.queries == 0:
            return NOTHING
        # Each sequence's queries as one product with its keys and one with its values, per KV head.
        queries, keys = -(-t.queries // t.num_seqs), -(-t.pairs // t.queries)
        times, group = t.num_seqs * op.kv_heads, op.heads // op.kv_heads
        scores = Product(queries * group, op.head_dim, keys, times)
        values = Product(queries * group, keys, op.v_dim, times)
        array = f.array.work(scores).then(f.array.work(values))
        weights = f.sfu.run(softmax(keys) * (op.heads * t.queries))
        return self._dram(op.cache_bytes).beside(array).then(weights)

    def cache_write(self, op: CacheWrite) -> Work:
        """Into DRAM, packed on the SFU where they are stored with fewer bits."""
        if op.space != "device":
            raise self.refusal(op, f"it has no memory {op.space!r}; keep the cache in its DRAM")
        return self._dram(op.cache_bytes).beside(self.figures.sfu.run(MUL * op.pack_flop))

    def embedding(self, op: Embedding) -> Work:
        """Whole pages, a row of each table from one or a few of them, and the sum of the rows."""
        pages = self.nand.pages_of(op.row_bytes) * op.tokens * op.tables
        seconds = self.nand.read_seconds(pages)
        joules = self.nand.read_joules(pages, pages * self.figures.shape.page_bytes)
        return Work.of("flash", seconds, joules).then(self.elementwise(op))

    def elementwise(self, op: Op) -> Work:
        """On the NPU's SFU, out of its SRAM and back, or of the DRAM where activations do not fit."""
        if isinstance(op, Gather):
            return NOTHING
        f, arithmetic, moved = self.figures, arithmetic_of(op), op.cost().bytes_moved
        assert arithmetic is not None
        work = f.sfu.run(arithmetic).beside(f.sram.move(moved))
        return work.beside(self._dram(moved)) if moved > f.sram.nbytes else work

    def _check(self, op: Linear) -> None:
        if type(op) is not Linear or not op.format.startswith(_FORMATS):
            raise self.refusal(
                op,
                f"its cores multiply whole pages of integers or 16-bit numbers, not {op.format!r} as this op "
                "wants it; store the weights as bf16, by smoothquant in 8 bits, or by gptq in 4",
            )
        if op.space != "device":
            raise self.refusal(op, f"weights are multiplied where its flash holds them, not in {op.space!r}")
        self.check_precision(op)

    def _split(self, rows: int, columns: int, bits: float, vectors: int, wire: int) -> Split:
        key = rows, columns, bits, vectors, wire
        split = self._splits.get(key)
        if split is None:
            if len(self._splits) > _REMEMBERED:
                self._splits = {}
            whole = self.figures.array.seconds(Product(vectors, columns, rows))
            split = self._splits[key] = self.flash.split(rows, columns, bits, vectors, wire, whole)
        return split

    def _dram(self, nbytes: float) -> Work:
        f = self.figures
        return Work.of("dram", nbytes / f.dram_bandwidth, nbytes * f.dram_joules)


def with_flash(channels: int, chips: int) -> CambriconFigures:
    """The machine with other flash."""
    usual = CambriconFigures()
    return replace(usual, shape=replace(usual.shape, channels=channels, chips=chips))


MACHINE = CambriconLlm
