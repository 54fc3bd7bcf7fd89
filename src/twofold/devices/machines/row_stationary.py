"""A 64 x 64 array with the row-stationary dataflow of Eyeriss: DRACO's baseline.

Source: Jha et al., "DRACO: co-optimizing hardware utilization, and performance of DNNs on systolic
accelerator" (arXiv:2006.15103), by the simulator of its authors. Convolutions are mapped by
`parts.row_stationary`; a product of tokens is a convolution of images of one pixel, one for each token, and
attention is two such products for each sequence and head of keys.

The source takes a DRAM of any bandwidth, and nothing but layers of networks for images: bandwidth, capacity
and the lanes of elementwise work are added here, so that language models run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar

from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.row_stationary import Pass, RowStationary
from twofold.devices.parts.tiling import streamed
from twofold.devices.parts.vector_unit import RECIPROCAL, VectorUnit, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Conv2d, Embedding, Gather, Linear, Op
from twofold.ops.base import Precision

ELEMENT = 2  # bytes of a number
FORMATS = ("bf16", "f16")  # of weights that need no widening
PJ = 1e-12

SIMULATOR = "github.com/shreyas1998/nn_dataflow, branch update, test_draco.py: "
SOURCES = {
    "rows, columns": "arXiv:2006.15103, abstract",
    "hertz": SIMULATOR + "200 MHz",
    "buffer_bytes": SIMULATOR + "128 KiB",
    "joules": SIMULATOR + "2 pJ; 460, 15, 4 and 1 pJ for 16 bits",
    "watts": SIMULATOR + "30 mW of buffer and registers",
    "lanes": "assumption: one for each column; the source counts products alone",
    "bandwidth": "assumption: one stack of HBM2; unlimited in the source",
    "memory_bytes": "assumption: as TPU v3; the source models none",
}
"""Where each figure of `RowStationaryFigures` comes from."""


@dataclass(frozen=True, slots=True)
class Joules:
    """Of a multiply-accumulate, and of moving a number from or to a register, between elements, from or to
    the buffer and the DRAM."""

    mac: float = 2 * PJ
    register: float = 1 * PJ
    network: float = 4 * PJ
    buffer: float = 15 * PJ
    dram: float = 460 * PJ


@dataclass(frozen=True, slots=True)
class RowStationaryFigures:
    """rows, columns: of the array; lanes: that do elementwise work; memory_bytes, bandwidth: of the DRAM;
    watts: always on."""

    rows: int = 64
    columns: int = 64
    lanes: int = 64
    hertz: float = 200e6
    buffer_bytes: int = 128 << 10
    memory_bytes: int = 32 << 30
    bandwidth: float = 256e9
    watts: float = 30e-3
    joules: Joules = field(default_factory=Joules)

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "joules" and not getattr(self, each.name) > 0:
                raise ValueError(f"array: {each.name} must be positive, not {getattr(self, each.name)!r}")


class RowStationaryArray(Machine):
    """The modelled machine."""

    name = "row-stationary"
    title = "A 64 x 64 array with Eyeriss's row-stationary dataflow"
    kind = "spatial"
    source = "the baseline of DRACO, arXiv:2006.15103, by its authors' simulator"
    precisions: ClassVar[tuple[Precision, ...]] = ("bf16", "fp16")
    sources = SOURCES
    more: ClassVar[tuple[str, ...]] = ("hertz", "lanes", "bandwidth")

    figures: RowStationaryFigures

    def __init__(self, figures: RowStationaryFigures | None = None, *, tp: int = 1) -> None:
        f = figures or RowStationaryFigures()
        self.array = RowStationary(f.rows, f.columns)
        self.lanes = VectorUnit(f.lanes, f.lanes, f.hertz, 1, f.joules.mac, f.joules.mac)
        super().__init__(f, memory=f.memory_bytes, idle_watts=f.watts, tp=tp)

    def peaks(self) -> Peaks:
        """Weights and cache stream from the DRAM; every element multiplies."""
        f = self.figures
        rate = 2 * f.rows * f.columns * f.hertz
        rates = dict.fromkeys(self.precisions, rate)
        return Peaks(f.bandwidth, rates, f.joules.dram / ELEMENT, f.joules.mac / 2)

    # --- what an op takes ---

    def work(self, op: Op) -> Work:
        """See `Machine.work`; convolutions too."""
        return self.convolution(op) if isinstance(op, Conv2d) else super().work(op)

    def convolution(self, op: Conv2d) -> Work:
        """Filters, inputs and results pass the buffer once, or as often as the better order of loops
        needs."""
        inputs = op.batch * op.in_channels * op.height * op.width
        outputs = op.batch * op.out_channels * op.out_height * op.out_width
        return self._on_array(op).beside(self._streamed(op.weight_bytes, inputs, outputs))

    def linear(self, op: Linear) -> Work:
        """As a convolution of as many images of a pixel as there are tokens."""
        self.check_precision(op)
        if type(op) is not Linear or op.format not in FORMATS or op.space != "device":
            raise self.refusal(
                op,
                f"it multiplies dense 16-bit weights from its own DRAM, not {op.format} in {op.space} "
                "memory; store the weights as bf16 or f16",
            )
        product = self._product(op.tokens, op.in_features, op.out_features, op.groups)
        inputs, outputs = op.tokens * op.in_features, op.tokens * op.out_features
        return self._on_array(product).beside(self._streamed(op.weight_bytes, inputs, outputs))

    def attention(self, op: Attention) -> Work:
        """Both products for each head of keys, softmax on the lanes, while keys and values stream in."""
        self.check_precision(op)
        if type(op) is not Attention or op.widen_flop or op.space != "device":
            raise self.refusal(
                op, "it multiplies the whole cache as 16-bit numbers; keep a dense cache in device memory"
            )
        t = op.totals
        work = NOTHING
        for seqs, queries, pairs in (
            (t.singles, t.singles, t.single_keys),
            (t.num_seqs - t.singles, t.queries - t.singles, t.pairs - t.single_keys),
        ):
            if queries:
                work = work.then(self._heads(op, seqs, queries, pairs))
        scores = softmax(t.pairs * op.heads).then(RECIPROCAL * (t.queries * op.heads))
        return work.then(self.lanes.run(scores)).beside(self._dram(op.cache_bytes))

    def _heads(self, op: Attention, seqs: int, queries: int, pairs: int) -> Work:
        """Sequences that are all of average length."""
        rows = -(-queries // seqs) * (op.heads // op.kv_heads)
        keys = -(-pairs // queries)
        both = self._on_array(self._product(rows, op.head_dim, keys)).then(
            self._on_array(self._product(rows, keys, op.v_dim))
        )
        return both * (seqs * op.kv_heads)

    def cache_write(self, op: CacheWrite) -> Work:
        """Into the DRAM."""
        if op.pack_flop or op.space != "device":
            raise self.refusal(op, "it stores keys and values as 16-bit numbers; keep a dense cache")
        return self._dram(op.cache_bytes)

    def embedding(self, op: Embedding) -> Work:
        """Rows from the DRAM, and their sum."""
        rows = self._dram(op.tokens * op.row_bytes * op.tables)
        return rows.then(self.elementwise(op)) if op.tables > 1 else rows

    def elementwise(self, op: Op) -> Work:
        """On the lanes."""
        if isinstance(op, Gather):
            return NOTHING
        arithmetic = arithmetic_of(op)
        assert arithmetic is not None
        moved = op.cost().bytes_moved
        spilled = moved if moved > self.figures.buffer_bytes else 0.0
        return self.lanes.run(arithmetic).beside(self._buffered(moved)).beside(self._dram(spilled))

    # --- parts of these ---

    def _product(self, rows: int, inputs: int, outputs: int, groups: int = 1) -> Conv2d:
        stored = inputs * outputs // groups * ELEMENT
        return Conv2d(rows, inputs, outputs, 1, 1, 1, "bf16", stored, "bf16", ELEMENT, groups=groups)

    def _on_array(self, op: Conv2d) -> Work:
        done, j = self.array.convolution(op), self.figures.joules
        return Work(
            done.cycles / self.figures.hertz,
            {
                "array": op.macs * j.mac + done.registers * j.register + done.network * j.network,
                "sram": done.buffer * j.buffer,
            },
            "array",
        )

    def mapped(self, op: Conv2d) -> Pass:
        """How the array does a convolution."""
        return self.array.convolution(op)

    def _streamed(self, weights: int, inputs: int, outputs: int) -> Work:
        """Numbers to and from the DRAM: half of the buffer holds what stays while the rest passes."""
        half = self.figures.buffer_bytes / 2
        entering, leaving = inputs * ELEMENT, outputs * ELEMENT
        read = streamed(weights, entering, held=half, weights_room=half, inputs_room=half)
        return self._dram(read + (leaving if leaving > half else 0))

    def _buffered(self, nbytes: float) -> Work:
        return Work(0.0, {"sram": nbytes / ELEMENT * self.figures.joules.buffer}, "sram")

    def _dram(self, nbytes: float) -> Work:
        f = self.figures
        return Work.of("dram", nbytes / f.bandwidth, nbytes / ELEMENT * f.joules.dram)


MACHINE = RowStationaryArray
