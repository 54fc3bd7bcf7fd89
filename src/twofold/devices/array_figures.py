"""A systolic array in numbers, with its buffers, its lanes and its DRAM; and where the numbers come from that
the simulators of one family of accelerators share."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes of the memories between the DRAM and the array."""

    weights: int = 128 << 10
    inputs: int = 256 << 10
    outputs: int = 128 << 10

    def __post_init__(self) -> None:
        if min(self.weights, self.inputs, self.outputs) < 2:
            raise ValueError(
                f"buffers must hold something, not {self.weights}, {self.inputs}, {self.outputs} bytes"
            )


@dataclass(frozen=True, slots=True)
class Stream:
    """A DRAM that is read and written in long streams. bandwidth: bytes/s; read, write: joules of a byte;
    watts: always on."""

    nbytes: int = 32 << 30
    bandwidth: float = 64e9
    read: float = 6e-12 * 8
    write: float = 6e-12 * 8
    watts: float = 0.484615

    def __post_init__(self) -> None:
        if self.nbytes < 1 or not self.bandwidth > 0 or min(self.read, self.write, self.watts) < 0:
            raise ValueError(
                "DRAM: capacity and bandwidth must be positive, energies and power not negative, not "
                f"{self.nbytes}, {self.bandwidth}, {self.read}, {self.write}, {self.watts}"
            )


@dataclass(frozen=True, slots=True)
class ArrayFigures:
    """node: nanometres; rows, columns: processing elements; lanes: of the vector unit."""

    node: float
    rows: int
    columns: int
    lanes: int
    hertz: float = 500e6
    buffers: Buffers = field(default_factory=Buffers)
    dram: Stream = field(default_factory=Stream)

    def __post_init__(self) -> None:
        if min(self.rows, self.columns, self.lanes) < 2 or not self.hertz > 0:
            raise ValueError(
                f"array: rows, columns and lanes must be at least 2 and hertz positive, not {self.rows}, "
                f"{self.columns}, {self.lanes}, {self.hertz}"
            )


SIMULATOR = "github.com/yuzhang712/mixpe_simulator @7e0d42c (MixPE's own), "
FAMILY_SOURCES = {
    "hertz": SIMULATOR + "conf_*.ini: 500 MHz",
    "buffers": SIMULATOR + "conf_*.ini: 128, 256 and 128 KiB",
    "dram.bandwidth": SIMULATOR + "conf_*.ini: 1,024 bits in a cycle of 500 MHz",
    "dram.read, dram.write": SIMULATOR + "bitfusion/src/simulator/stats.py: it assumes 6 pJ a bit; what it "
    "then multiplies by, 0.644 and 0.784 nJ for 1,024 bits, is a tenth of that and below any published DRAM",
    "dram.watts": SIMULATOR + "bitfusion/src/simulator/stats.py: 484.6 mW always",
    "dram.nbytes": "assumption: holds the models that the sources run, in 16 bits",
    "lanes": "assumption: one for each column of the array; the sources count products alone",
}
"""Where the figures come from that the simulators of this family of arrays share."""
