"""The base of machines that are one systolic array of processing elements: buffers and a DRAM around it, and
a row of vector lanes.

A subclass says what a processing element is made of and which products it takes; area and energy follow from
its gates. The array keeps outputs in place. What it does not multiply, products of 16-bit floats on an array
of integers above all, goes to the lanes, one multiplier and one adder of fp16 each: slow, but a plan runs.
Weights stream from the DRAM, keys and values too; activations stay in the buffers while they fit there.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

from twofold.devices.array_figures import ArrayFigures
from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.energy import Process
from twofold.devices.parts.pe import Circuit, Logic
from twofold.devices.parts.systolic import Product, SystolicArray
from twofold.devices.parts.tiling import streamed
from twofold.devices.parts.vector_unit import RECIPROCAL, Arithmetic, VectorUnit, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Embedding, Gather, Linear, Op
from twofold.ops.base import Precision
from twofold.ops.formats import get_format
from twofold.ops.linear import BitPlaneLinear

_SUM_BYTES = 4  # of a finished sum that leaves the array
FLOATS: tuple[Precision, ...] = ("bf16", "fp16")


class Mode(NamedTuple):
    """How the array does a product: its shape as the product sees it, how many processing elements make one
    multiply-accumulate, and bits of a weight and of an activation on their way in."""

    rows: int
    columns: int
    elements: int
    weight_bits: int
    input_bits: int


class PeArray(Machine):
    """A systolic array with buffers, lanes and a DRAM.

    usual: its figures where none are given; area_mm2: of all but the DRAM; element: the processing element;
    decoder: what stands at each row and column of the array's edges, if anything.
    """

    kind = "systolic"
    note = "not validated by measurement; leakage of its logic is not counted: no figure is published"
    precisions: ClassVar[tuple[Precision, ...]] = FLOATS
    more: ClassVar[tuple[str, ...]] = ("dram.bandwidth", "lanes", "hertz")

    usual: ClassVar[ArrayFigures]

    figures: ArrayFigures

    def __init__(self, figures: ArrayFigures | None = None, *, tp: int = 1) -> None:
        f = figures or self.usual
        self.logic = Logic(Process(f.node))
        multiplier, adder = self.logic.float_multiplier("fp16"), self.logic.float_adder("fp16")
        self.lane = multiplier + adder
        self.lanes = VectorUnit(f.lanes, f.lanes, f.hertz, 1, multiplier.joules, adder.joules)
        super().__init__(f, memory=f.dram.nbytes, idle_watts=f.dram.watts, tp=tp)

    # --- what a subclass says ---

    @property
    @abstractmethod
    def element(self) -> Circuit:
        """A processing element, with its registers."""

    @abstractmethod
    def mode(self, op: Linear) -> Mode | None:
        """How the array multiplies for `op`; None where the lanes do, which take 16-bit floats alone.
        ValueError for a format that neither takes."""

    def stored_bytes(self, op: Linear) -> float:
        """Bytes of the weights as the machine stores them."""
        return op.weight_bytes

    def around(self, op: Linear) -> int:
        """Elementwise operations beside the product. Planes of bits are whole integers to an array: their
        activations are rounded, and each group's sum is scaled and added."""
        if isinstance(op, BitPlaneLinear):
            return 4 * op.tokens * op.in_features + rescaling(op)
        return op.vector_flop

    @property
    def decoder(self) -> Circuit:
        """At each row and column of the array: nothing, where operands come as the elements take them."""
        return Circuit()

    @abstractmethod
    def rates(self) -> dict[Precision, float]:
        """FLOP/s of the array by the precision of products."""

    # --- area and power ---

    @property
    def array_mm2(self) -> float:
        """Of the processing elements and what stands at the array's edges."""
        f = self.figures
        return self.element.area * f.rows * f.columns + self.decoder.area * (f.rows + f.columns)

    @property
    def area_mm2(self) -> float:
        """Of array, lanes and buffers."""
        f, b = self.figures, self.figures.buffers
        memories = sum(self.logic.sram_area(nbytes) for nbytes in (b.weights, b.inputs, b.outputs))
        return self.array_mm2 + self.lane.area * f.lanes + memories

    @property
    def array_watts(self) -> float:
        """Of the array with every processing element busy."""
        return self.element.joules * self.figures.rows * self.figures.columns * self.figures.hertz

    def peaks(self) -> Peaks:
        """The DRAM feeds everything; floats are multiplied by the lanes unless the array takes them."""
        f, rates = self.figures, self.rates()
        floats = {p: max(rates.get(p, 0.0), 2 * f.lanes * f.hertz) for p in FLOATS}
        least = min(self.lane.joules / 2, *(self.array_watts / rate for rate in rates.values()))
        return Peaks(f.dram.bandwidth, rates | floats, min(f.dram.read, f.dram.write), least)

    # --- what an op takes ---

    def linear(self, op: Linear) -> Work:
        """Weights stream in beside the array, and beside what the lanes do before and after it."""
        if type(op) not in (Linear, BitPlaneLinear):
            raise self.refusal(op, "its array multiplies dense matrices; store the weights whole")
        if op.space != "device":
            raise self.refusal(op, f"its weights stream from its own DRAM, not from {op.space} memory")
        self.check_precision(op)
        mode = self.mode(op)
        if mode is None:
            macs = op.tokens * op.depth * op.out_features
            lanes = self.lanes.run(Arithmetic(macs, macs, 2).then(_plain(self.around(op))))
            return self._from_dram(op, 8 * op.act_bytes).beside(lanes)
        product = Product(op.tokens, op.depth, op.out_features // op.groups, op.groups)
        array = self._array(mode)
        run = array.run(product)
        busy = Work.of("array", run.cycles / array.hertz, product.macs * array.joules)
        moved = run.read_a * mode.input_bits / 8 + run.read_b * mode.weight_bits / 8
        buffers = self._buffer_joules(moved + _SUM_BYTES * run.sums_written)
        work = self._from_dram(op, mode.input_bits).beside(busy).beside(buffers)
        return work.beside(self.lanes.run(_plain(self.around(op)))) if self.around(op) else work

    def attention(self, op: Attention) -> Work:
        """On the lanes, keys and values streaming in."""
        self._check_attention(op)
        macs = op.totals.pairs * op.heads * (op.head_dim + op.v_dim)
        lanes = self.lanes.run(Arithmetic(macs, macs, 2).then(beside_product(op)))
        return self._cache_read(op).beside(lanes)

    def cache_write(self, op: CacheWrite) -> Work:
        """Into the DRAM, packed by the lanes."""
        if type(op) is not CacheWrite or op.space != "device":
            raise self.refusal(
                op, "its cache lies whole in its own DRAM; keep a dense or quantised one there"
            )
        return self._written(op.cache_bytes).then(self._packing(op))

    def embedding(self, op: Embedding) -> Work:
        """Rows from the DRAM, and their sum."""
        f = self.figures.dram
        nbytes = op.tokens * op.row_bytes * op.tables
        rows = Work.of("dram", nbytes / f.bandwidth, nbytes * f.read)
        return rows.then(self.elementwise(op)) if op.tables > 1 else rows

    def elementwise(self, op: Op) -> Work:
        """On the lanes."""
        if isinstance(op, Gather):
            return NOTHING
        arithmetic = arithmetic_of(op)
        assert arithmetic is not None
        return self.lanes.run(arithmetic).beside(self._spilled(op))

    # --- parts of these ---

    def _array(self, mode: Mode) -> SystolicArray:
        joules = self.element.joules * mode.elements
        return SystolicArray(mode.rows, mode.columns, self.figures.hertz, joules, "os")

    def _from_dram(self, op: Linear, input_bits: int) -> Work:
        """Weights, and activations that fit no buffer: whichever of both loops over the other takes less."""
        f, b = self.figures.dram, self.figures.buffers
        read = streamed(
            self.stored_bytes(op),
            op.tokens * op.in_features * input_bits / 8,
            held=b.inputs,
            weights_room=b.weights // 2,
            inputs_room=b.inputs // 2,
        )
        outputs = op.tokens * op.out_features * op.act_bytes
        written = outputs if outputs > b.outputs else 0
        seconds = (read + written) / f.bandwidth
        work = Work.of("dram", seconds, read * f.read + written * f.write)
        return work.beside(self._buffer_joules(read + written))

    def _buffer_joules(self, nbytes: float) -> Work:
        """Of bytes through the buffers, which keep up with the array."""
        b = self.figures.buffers
        each = self.logic.process.sram_byte(max(b.weights, b.inputs, b.outputs))
        return Work(0.0, {"sram": nbytes * each})

    def _written(self, nbytes: float) -> Work:
        f = self.figures.dram
        return Work.of("dram", nbytes / f.bandwidth, nbytes * f.write)

    def _widened(self, op: Attention) -> Work:
        return self.lanes.run(_plain(op.widen_flop)) if op.widen_flop else NOTHING

    def _packing(self, op: CacheWrite) -> Work:
        return self.lanes.run(_plain(op.pack_flop)) if op.pack_flop else NOTHING

    def _spilled(self, op: Op) -> Work:
        """Activations of an elementwise op through the DRAM, where the buffers do not hold them."""
        f, b = self.figures.dram, self.figures.buffers
        cost = op.cost()
        buffers = self._buffer_joules(cost.bytes_moved)
        if cost.bytes_moved <= b.inputs + b.outputs:
            return buffers
        joules = cost.bytes_read * f.read + cost.bytes_written * f.write
        return Work.of("dram", cost.bytes_moved / f.bandwidth, joules).beside(buffers)

    def _check_attention(self, op: Attention) -> None:
        self.check_precision(op)
        if type(op) is not Attention or op.space != "device" or op.compute not in FLOATS:
            raise self.refusal(
                op,
                "it multiplies the whole cache in 16 bits, from its own DRAM; keep a dense or quantised "
                "cache there",
            )

    def _cache_read(self, op: Attention) -> Work:
        f = self.figures.dram
        work = Work.of("dram", op.cache_bytes / f.bandwidth, op.cache_bytes * f.read)
        return work.beside(self._buffer_joules(op.cache_bytes))


def _plain(operations: int) -> Arithmetic:
    """Elementwise operations, half of them multiplications."""
    return Arithmetic(operations // 2, operations - operations // 2, 2)


def beside_product(op: Attention) -> Arithmetic:
    """What attention takes beside its products: the softmax over all pairs, a reciprocal for each query and
    head, and bringing the cache to 16 bits."""
    queries = op.totals.queries * op.heads
    return softmax(op.totals.pairs * op.heads).then(RECIPROCAL * queries).then(_plain(op.widen_flop))


def rescaling(op: Linear) -> int:
    """Operations that scale the sums of all groups of weights, and add them: two each."""
    return 2 * op.tokens * op.out_features * -(-op.depth // get_format(op.format).block)


def operand_bits(op: Linear) -> tuple[int, int]:
    """Bits of a stored weight, scales left out, and of an activation as it is multiplied."""
    weights = get_format(op.format).bits
    if isinstance(op, BitPlaneLinear):
        return weights, op.plane_pairs // weights
    inputs: dict[Precision, int] = {"int4": 4, "int8": 8}
    return weights, inputs.get(op.compute, 16)
