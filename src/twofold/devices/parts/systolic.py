"""A systolic array: cycles, utilisation and memory traffic of a matrix product by dataflow.

For C[m, n] = A[m, k] B[k, n]. One operand stays in the processing elements while the others pass by: the
weights B (ws), the inputs A (is) or the outputs C (os). The array takes a tile of what stays, then as many
cycles as the third dimension is long; filling and draining the skewed wavefronts adds rows and columns.
Without double buffering a tile takes 2 rows + columns + past - 2 cycles (Samajdar et al., "A systematic
methodology for characterizing scalability of DNN accelerators using SCALE-Sim", ISPASS 2020, equation 3;
SCALE-Sim v2's weight-stationary array counts the same). `systolic_events` plays small products element by
element; the tests hold these formulas to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from twofold.devices.parts.work import Work

Dataflow = Literal["ws", "is", "os"]


class Product(NamedTuple):
    """C[m, n] = A[m, k] B[k, n], `times` times with other numbers (heads, groups)."""

    m: int
    k: int
    n: int
    times: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.m * self.k * self.n * self.times


class Run(NamedTuple):
    """What a product takes: cycles; share of the processing elements' slots that compute; elements read of A
    and B, and partial sums written and read back, between the array and its buffers."""

    cycles: int
    utilisation: float
    read_a: int
    read_b: int
    sums_written: int
    sums_read: int


@dataclass(frozen=True, slots=True)
class SystolicArray:
    """`rows` x `columns` processing elements at `hertz`, `arrays` of them that share the tiles of a product.

    joules: of a multiply-accumulate with its registers; double_buffered: whether the next tile of what stays
    is loaded (the results of `os`: whether they leave) while this one computes.
    """

    rows: int
    columns: int
    hertz: float
    joules: float
    dataflow: Dataflow = "ws"
    arrays: int = 1
    double_buffered: bool = True

    def __post_init__(self) -> None:
        if min(self.rows, self.columns, self.arrays) < 1 or not self.hertz > 0 or self.joules < 0:
            raise ValueError(
                f"systolic array: rows, columns, arrays and hertz must be positive and joules not negative, "
                f"not {self.rows}, {self.columns}, {self.arrays}, {self.hertz}, {self.joules}"
            )

    @property
    def macs_per_second(self) -> float:
        """With every processing element busy."""
        return self.rows * self.columns * self.arrays * self.hertz

    def run(self, product: Product) -> Run:
        """`product` on all arrays, which take equal shares."""
        m, k, n, times = product
        if min(product) < 1:
            return Run(0, 0.0, 0, 0, 0, 0)
        # Down the rows, across the columns, and past the array.
        down, across, past = {"ws": (k, n, m), "is": (k, m, n), "os": (m, n, k)}[self.dataflow]
        tiles_down, tiles_across = -(-down // self.rows), -(-across // self.columns)
        tiles = tiles_down * tiles_across * times
        most = -(-tiles // self.arrays)  # of the busiest array
        # Of one tile: what stays is loaded, or the results of `os` leave, a row in a cycle; wavefronts pass.
        alone = self.rows + past + self.rows + self.columns - 2
        # A new tile can follow when the one before has passed, and all rows of the next are loaded.
        next_after = max(past, self.rows) if self.double_buffered else alone
        cycles = alone + (most - 1) * next_after
        slots = cycles * self.rows * self.columns * self.arrays
        again_a, again_b, passes = self._passes(tiles_down, tiles_across)
        outputs = m * n * times
        return Run(
            cycles,
            product.macs / slots,
            m * k * times * again_a,
            k * n * times * again_b,
            outputs * passes,
            outputs * (passes - 1),
        )

    def _passes(self, down: int, across: int) -> tuple[int, int, int]:
        """How often A, B and the sums go between array and buffers."""
        if self.dataflow == "os":
            return across, down, 1
        return (across, 1, down) if self.dataflow == "ws" else (1, across, down)

    def seconds(self, product: Product) -> float:
        """Of the array alone, its buffers keeping up."""
        return self.run(product).cycles / self.hertz

    def work(self, product: Product) -> Work:
        """The array's time, and the energy of its multiply-accumulates."""
        return Work.of("array", self.seconds(product), product.macs * self.joules)
