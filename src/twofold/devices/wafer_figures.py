"""The figures of a wafer of small cores on a mesh, as machines on it share them, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.devices.parts.core import Core
from twofold.devices.parts.mesh import Mesh

PAPER = "arXiv:2502.04563, OSDI 2025"
LOG = (
    "public performance models of such kernels, from instruction logs of the SDK's simulator "
    "(github.com/Wang-oss-tech/csl-experiments has one; others, of the source's own kernels, were read "
    "without the name of their repository and do not say of which generation of the wafer they are): "
)
SOURCES = {
    "cores, core.nbytes": PAPER + ", section 7: 850,000 cores with 48 KB each",
    "core.operand_bytes": PAPER
    + ", section 7: two 32-bit operands from SRAM, a multiply-accumulate and a write "
    "back in each cycle (22 PB/s, which the text gives too, would be twice as much)",
    "core.apart": LOG + "mapped products of 14 numbers start 5 cycles apart",
    "core.describe": LOG + "40 cycles for three descriptors that are loaded and two that are moved on",
    "round_cycles": LOG + "62 cycles to set up a round's messages, 13 for each task that one wakes, of which "
    "MeshGEMM has four",
    "mesh.hertz": PAPER + ", section 7: 1.1 GHz at most",
    "mesh.hop, mesh.link_bytes": PAPER + ", section 7: 32 bits to or from a neighbour in one cycle",
    "mesh.route": "Luczynski et al., Near-optimal wafer-scale reduce, arXiv:2404.15888: 2 T_R + 1 cycles, "
    "with T_R = 2 on WSE-2 (as quoted by later readers)",
    "mesh.paths": PAPER + ", section 3.1: addresses of 5 bits",
    "decode_side, prefill_side": PAPER + ", section 7.1: 360 x 360 and 660 x 660 cores for LLaMA3-8B",
    "phases": PAPER + ", section 6.2: K = 2",
    "watts": PAPER + ", section 7.5: 37 times an A100 of 400 W; 15 kW in the press (AnandTech, 2021)",
    "core.process.node": PAPER + ", section 7: 7 nm; energies by parts/energy.py",
    "hop_joules": PAPER + ", table 1: about 0.1 pJ a bit from die to die on the wafer; within a die assumed "
    "the same",
}
"""Where each figure of `WaferFigures` comes from."""


@dataclass(frozen=True, slots=True)
class WaferFigures:
    """The wafer. Defaults: SOURCES says where each comes from.

    decode_side, prefill_side: of the square of cores that a token, or a prompt, is multiplied on; phases: K
    of the K-tree; round_cycles: of software around each round of moving tiles; watts: of the wafer with every
    core multiplying; hop_joules: of a byte to a neighbour.
    """

    cores: int = 850_000
    core: Core = field(default_factory=lambda: Core(48 * 1024, operand_bytes=4, apart=5, describe=8))
    mesh: Mesh = field(default_factory=lambda: Mesh(hertz=1.1e9, hop=1, route=5, link_bytes=4, paths=32))
    decode_side: int = 360
    prefill_side: int = 660
    phases: int = 2
    round_cycles: int = 114
    watts: float = 15e3
    hop_joules: float = 0.1e-12 * 8

    def __post_init__(self) -> None:
        if self.round_cycles < 0:
            raise ValueError(f"wafer: round_cycles must not be negative, not {self.round_cycles}")
        if self.phases < 1:
            raise ValueError(f"wafer: a tree has one phase at least, not {self.phases}")
        most = int(self.cores**0.5)
        for name in ("decode_side", "prefill_side"):
            if not 2 <= getattr(self, name) <= most:
                raise ValueError(
                    f"wafer: {name} is from 2 to {most} of {self.cores} cores, not {getattr(self, name)}"
                )
        if not self.watts >= self.busy_watts:
            raise ValueError(
                f"wafer: its multipliers and memories alone draw {self.busy_watts:.0f} W, more than watts "
                f"({self.watts}); raise watts, or take a smaller process"
            )

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates per second of all cores."""
        return self.cores * self.core.lanes * self.mesh.hertz

    @property
    def busy_watts(self) -> float:
        """Dynamic power with every core multiplying."""
        return self.macs_per_second * self.core.mac_joules
