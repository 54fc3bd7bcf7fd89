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

from twofold.devices.dense_array import ELEMENT, DenseArray
from twofold.devices.machine import Peaks
from twofold.devices.parts.row_stationary import Pass, RowStationary
from twofold.devices.parts.vector_unit import RECIPROCAL, VectorUnit, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, Conv2d, Linear, Op

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


class RowStationaryArray(DenseArray):
    """The modelled machine."""

    name = "row-stationary"
    title = "A 64 x 64 array with Eyeriss's row-stationary dataflow"
    kind = "spatial"
    source = "the baseline of DRACO, arXiv:2006.15103, by its authors' simulator"
    sources = SOURCES

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
        return self._on_array(op).beside(self.operands(op.weight_bytes, inputs, outputs))

    def linear(self, op: Linear) -> Work:
        """As a convolution of as many images of a pixel as there are tokens."""
        self.check_linear(op)
        product = self._product(op.tokens, op.in_features, op.out_features, op.groups)
        inputs, outputs = op.tokens * op.in_features, op.tokens * op.out_features
        return self._on_array(product).beside(self.operands(op.weight_bytes, inputs, outputs))

    def attention(self, op: Attention) -> Work:
        """Both products for each head of keys, softmax on the lanes, while keys and values stream in."""
        self.check_attention(op)
        t = op.totals
        work = NOTHING
        for seqs, queries, pairs in (
            (t.singles, t.singles, t.single_keys),
            (t.num_seqs - t.singles, t.queries - t.singles, t.pairs - t.single_keys),
        ):
            if queries:
                work = work.then(self._heads(op, seqs, queries, pairs))
        scores = softmax(t.pairs * op.heads).then(RECIPROCAL * (t.queries * op.heads))
        return work.then(self.lanes.run(scores)).beside(self.dram(op.cache_bytes))

    def _heads(self, op: Attention, seqs: int, queries: int, pairs: int) -> Work:
        """Sequences that are all of average length."""
        rows = -(-queries // seqs) * (op.heads // op.kv_heads)
        keys = -(-pairs // queries)
        both = self._on_array(self._product(rows, op.head_dim, keys)).then(
            self._on_array(self._product(rows, keys, op.v_dim))
        )
        return both * (seqs * op.kv_heads)

    # --- parts of these ---

    def _product(self, rows: int, inputs: int, outputs: int, groups: int = 1) -> Conv2d:
        stored = inputs * outputs // groups * ELEMENT
        return Conv2d(rows, inputs, outputs, 1, 1, 1, "bf16", stored, "bf16", ELEMENT, groups=groups)

    def _on_array(self, op: Conv2d) -> Work:
        done, j = self.array.convolution(op), self.figures.joules
        seconds = done.cycles / self.figures.hertz
        return Work(
            seconds,
            {
                "array": op.macs * j.mac + done.registers * j.register + done.network * j.network,
                "sram": done.buffer * j.buffer,
            },
            {"array": seconds},
        )

    def mapped(self, op: Conv2d) -> Pass:
        """How the array does a convolution."""
        return self.array.convolution(op)

    def buffer(self, nbytes: float) -> Work:
        """See `DenseArray.buffer`."""
        return Work(0.0, {"sram": nbytes / ELEMENT * self.figures.joules.buffer})

    def dram(self, nbytes: float) -> Work:
        """See `DenseArray.dram`."""
        f = self.figures
        return Work.of("dram", nbytes / f.bandwidth, nbytes / ELEMENT * f.joules.dram)


MACHINE = RowStationaryArray
