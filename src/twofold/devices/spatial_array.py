"""The base of machines that are a large 2D array of multiply-accumulate elements beside a 1D array, a buffer
and a DRAM, as in a TPU.

What the machines of this family differ in is how they map attention onto both arrays: `attention_work`. Dense
products go to the 2D array, by whichever operand is best kept in place (its elements take any dataflow); the
1D array does what touches each activation a few times. Activations stay in the buffer while it holds them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from twofold.devices.dense_array import ELEMENT, DenseArray
from twofold.devices.machine import Peaks
from twofold.devices.parts.energy import Process
from twofold.devices.parts.systolic import Dataflow, Product, SystolicArray
from twofold.devices.parts.vector_unit import VectorUnit
from twofold.devices.parts.work import Work
from twofold.ops import Attention, Linear

DATAFLOWS: tuple[Dataflow, ...] = ("ws", "is", "os")
PJ = 1e-12


@dataclass(frozen=True, slots=True)
class Joules:
    """Of one operation on 16-bit floats, of reading and writing the registers of an element of either array,
    and of a byte of the DRAM."""

    mac: float = 17.1645 * PJ
    add: float = 8.3395 * PJ
    max: float = 0.028036 * PJ
    exp: float = 94.6475 * PJ
    divide: float = 36.251153 * PJ
    registers: float = (0.291512 + 0.225259) * PJ
    lane_registers: float = (0.385026 + 0.336188) * PJ
    dram_byte: float = 249.6 / 8 * PJ

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) >= 0:
                raise ValueError(
                    f"joules: {each.name} must not be negative, not {getattr(self, each.name)!r}"
                )


@dataclass(frozen=True, slots=True)
class SpatialFigures:
    """rows, columns: of the 2D array; lanes: of the 1D array; node: nanometres, for the energy of the buffer;
    memory_bytes, bandwidth (bytes/s): of the DRAM."""

    rows: int = 256
    columns: int = 256
    lanes: int = 256
    hertz: float = 940e6
    node: float = 45
    buffer_bytes: int = 32 << 20
    memory_bytes: int = 32 << 30
    bandwidth: float = 400 * 2**30
    joules: Joules = field(default_factory=Joules)

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "joules" and not getattr(self, each.name) > 0:
                raise ValueError(f"array: {each.name} must be positive, not {getattr(self, each.name)!r}")


ARTIFACT = "github.com/FPSG-UIUC/micro24-fusemax-artifact, workspace/"
SOURCES = {
    "rows, columns, lanes, hertz": "arXiv:2406.10491, section VI-A: FLAT's cloud configuration",
    "node": "arXiv:2406.10491, section VI-A: modelled at 45 nm",
    "buffer_bytes": ARTIFACT + "src/accel/flat.py: 32 MiB",
    "bandwidth": ARTIFACT + "src/accel/cascade.py: 400 GiB/s",
    "memory_bytes": "assumption: as TPU v3, on whose parameters the source builds; it models no capacity",
    "joules": ARTIFACT + "inputs/yamls/area_energy/outputs-{1d,2d}-flat/ERT.yaml (Accelergy, 45 nm)",
    "joules.registers, joules.lane_registers": ARTIFACT
    + "inputs/yamls/area_energy/outputs-{1d,2d}-flat/ERT.yaml; assumption: one read and one write for each "
    "operation",
    "joules.dram_byte": ARTIFACT + "inputs/yamls/area_energy/outputs-2d-flat/ERT.yaml: 249.6 pJ for 64 bits",
}
"""Where the figures of `SpatialFigures` come from."""


class Scores(NamedTuple):
    """The scores of a batch, cut into tiles of the 2D array: queries that share keys (all heads of a group)
    across its columns, keys along its rows.

    num: scores of all heads; queries: query rows of all heads; blocks: tiles of queries of all heads; tiles:
    of the array; keys: of a query, on average; rows: queries that share keys, of one sequence and kv head;
    stored: bytes of the keys and values; width: elements of a key and a value.
    """

    num: int
    queries: int
    blocks: int
    tiles: int
    keys: float
    rows: float
    stored: float
    width: int

    def read(self, blocks: float) -> float:
        """Bytes of keys and values read where each sequence's queries are taken in `blocks`, each of which
        reads what it sees; all are read once at least."""
        seen = self.keys * self.queries / self.rows * self.width * ELEMENT
        return max(self.stored, seen * blocks)


class SpatialArray(DenseArray):
    """A 2D and a 1D array that share a buffer."""

    kind = "spatial"
    note = "not validated by measurement; as in its source, only operations and accesses take energy"
    sources = SOURCES

    figures: SpatialFigures

    def __init__(self, figures: SpatialFigures | None = None, *, tp: int = 1) -> None:
        f = figures or SpatialFigures()
        self.arrays = [
            SystolicArray(f.rows, f.columns, f.hertz, f.joules.mac + f.joules.registers, dataflow)
            for dataflow in DATAFLOWS
        ]
        self.lanes = VectorUnit(
            f.lanes,
            f.lanes,
            f.hertz,
            1,
            f.joules.mac + f.joules.lane_registers,
            f.joules.add + f.joules.lane_registers,
        )
        self.buffer_byte = Process(f.node).sram_byte(f.buffer_bytes)
        # The source counts no power beside that of operations and accesses.
        super().__init__(f, memory=f.memory_bytes, idle_watts=0.0, tp=tp)

    def peaks(self) -> Peaks:
        """Weights and cache stream from the DRAM; the 2D array multiplies."""
        f = self.figures
        rate = self.arrays[0].macs_per_second * 2
        return Peaks(f.bandwidth, dict.fromkeys(self.precisions, rate), f.joules.dram_byte, f.joules.mac / 2)

    # --- attention ---

    @abstractmethod
    def attention_work(self, op: Attention, alone: Scores | None, many: Scores | None) -> Work:
        """Attention of queries that are `alone` in their sequences (decode), and of those that are not."""

    def attention(self, op: Attention) -> Work:
        """By the machine's mapping."""
        self.check_attention(op)
        t = op.totals
        several = t.pairs - t.single_keys, t.keys - t.single_keys
        return self.attention_work(
            op,
            self._scores(op, t.singles, t.singles, t.single_keys, t.single_keys),
            self._scores(op, t.num_seqs - t.singles, t.queries - t.singles, *several),
        )

    def _scores(self, op: Attention, seqs: int, queries: int, pairs: int, stored: int) -> Scores | None:
        """Tiles of sequences that are all of average length."""
        if not queries:
            return None
        f, group = self.figures, op.heads // op.kv_heads
        rows = queries / seqs * group
        keys = pairs / queries
        blocks = ceil(rows / f.columns) * seqs * op.kv_heads
        return Scores(
            num=pairs * op.heads,
            queries=queries * op.heads,
            blocks=blocks,
            tiles=blocks * ceil(keys / f.rows),
            keys=keys,
            rows=rows,
            stored=op.cache_bytes * stored / op.totals.keys,
            width=op.head_dim + op.v_dim,
        )

    def stream(self, scores: Scores, nbytes: float) -> Work:
        """`nbytes` to and from the DRAM, and queries and results where the buffer does not hold them."""
        around = scores.queries * scores.width * ELEMENT
        return self.dram(nbytes + (around if around > self.figures.buffer_bytes else 0.0))

    def linear(self, op: Linear) -> Work:
        """On the 2D array, weights streaming in."""
        self.check_linear(op)
        product = Product(op.tokens, op.depth, op.out_features // op.groups, op.groups)
        array = min(self.arrays, key=lambda each: each.run(product).cycles)
        run = array.run(product)
        moved = (run.read_a + run.read_b + run.sums_written + run.sums_read) * ELEMENT
        operands = self.operands(op.weight_bytes, op.tokens * op.in_features, op.tokens * op.out_features)
        return array.work(product).beside(self.buffer(moved)).beside(operands)

    # --- parts ---

    def array(self, cycles: float, joules: float) -> Work:
        """Of the 2D array."""
        return Work.of("array", cycles / self.figures.hertz, joules)

    def vector(self, cycles: float, joules: float) -> Work:
        """Of the 1D array."""
        return Work.of("vector", cycles / self.figures.hertz, joules)

    def buffer(self, nbytes: float) -> Work:
        """Bytes through the buffer, which keeps up with the arrays."""
        return Work.of("sram", 0.0, nbytes * self.buffer_byte)

    def dram(self, nbytes: float) -> Work:
        """Bytes to or from the DRAM."""
        f = self.figures
        return Work.of("dram", nbytes / f.bandwidth, nbytes * f.joules.dram_byte)


def ceil(value: float) -> int:
    """Tiles that hold it, at least one; what is off by rounding is none."""
    return max(1, -int(-(value - 1e-9) // 1))
