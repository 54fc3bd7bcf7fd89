"""High-bandwidth memory by generation: shapes, timings and energies of its pseudo channels.

Energies of all generations are those of HBM2 by the floorplan model of O'Connor et al. (MICRO 2017), the one
that the literature uses for HBM3 too; what a newer process saves is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from twofold.devices.parts.dram import NS, Dram, DramEnergy, DramShape, DramTiming
from twofold.errors import nearest

Generation = Literal["hbm2", "hbm2e", "hbm3"]

_ROW_BYTES, _COLUMN_BYTES = 1024, 32
_BIT = 1e-12 * 8  # joules per byte of a picojoule per bit

ROW_JOULES = 909e-12
"""Opening and closing a row of 1 KiB."""
PRE_GSA, POST_GSA, PINS = 1.51 * _BIT, 1.17 * _BIT, 0.80 * _BIT
"""Joules per byte from the cells to the global sense amplifiers, on to the interface of the stack (lines of
the die and through-silicon vias), and over the pins on an interposer (half of the bits toggling)."""

OCONNOR = (
    "O'Connor et al., Fine-Grained DRAM, MICRO 2017, table 3 (HBM2), as public models quote it: 909 pJ a row "
    "of 1 KiB; per bit 1.51 pJ before and 1.17 pJ after the global sense amplifiers, 0.80 pJ over the pins"
)
DRAMSIM3 = (
    "github.com/umd-memsys/DRAMsim3 @2981759, configs/HBM2_8Gb_x128.ini, half a channel: IDD2N, IDD3N and "
    "(IDD5AB - IDD3N) * tRFC at VDD"
)
RAMULATOR = "github.com/CMU-SAFARI/ramulator2 @c5b1c3a, python/ramulator/dram: "


@dataclass(frozen=True, slots=True)
class _Stack:
    """channels: pseudo channels; banks: of one, all dies together; nbytes, bandwidth: of a stack."""

    channels: int
    banks: int
    nbytes: int
    bandwidth: float
    timing: DramTiming
    source: str


_HBM2 = DramTiming(
    rcd_read=14 * NS,
    rcd_write=12 * NS,
    rcd_mac=14 * NS,
    rp=14 * NS,
    ras=34 * NS,
    rc=48 * NS,
    ccd=2 * NS,
    ccd_mac=4 * NS,
    rtp=5 * NS,
    wr=16 * NS,
    cl=14 * NS,
    cwl=5 * NS,
    rrd=4 * NS,
    faw=15 * NS,
    rfc=260 * NS,
    refi=3900 * NS,
)
_CK3 = 0.625 * NS
_HBM3 = DramTiming(
    rcd_read=31 * _CK3,
    rcd_write=15 * _CK3,
    rcd_mac=31 * _CK3,
    rp=26 * _CK3,
    ras=45 * _CK3,
    rc=72 * _CK3,
    ccd=2 * _CK3,
    ccd_mac=4 * _CK3,
    rtp=9 * _CK3,
    wr=33 * _CK3,
    cl=20 * _CK3,
    cwl=10 * _CK3,
    rrd=4 * _CK3,
    faw=24 * _CK3,
    rfc=350 * NS,
    refi=3900 * NS,
)
_STACKS: dict[Generation, _Stack] = {
    "hbm2": _Stack(16, 16, 8 << 30, 256e9, _HBM2, "hbm2.py, HBM2_2000Mbps, 4 Gbit a pseudo channel"),
    "hbm2e": _Stack(
        16, 32, 16 << 30, 409.6e9, _HBM2, "hbm2.py, HBM2_2000Mbps; assumption: HBM2E has the same nanoseconds"
    ),
    "hbm3": _Stack(32, 32, 16 << 30, 819.2e9, _HBM3, "hbm3.py, HBM3_6400Mbps, 16 Gbit dies, 8 high"),
}

ENERGY = DramEnergy(
    activate=ROW_JOULES,
    read=(PRE_GSA + POST_GSA) * _COLUMN_BYTES,
    write=(PRE_GSA + POST_GSA) * _COLUMN_BYTES,
    mac=0.0,
    bus=PINS,
    refresh=(250e-3 - 55e-3) * 1.2 * 260 * NS / 2,
    standby=40e-3 * 1.2 / 2,
    active=55e-3 * 1.2 / 2,
)
"""Of a pseudo channel. Plain HBM multiplies nothing: `mac` is for machines that do."""


def hbm(
    generation: Generation, stacks: int = 1, *, capacity: int | None = None, bandwidth: float | None = None
) -> Dram:
    """`stacks` of HBM as one memory of pseudo channels, over which data lie evenly.

    capacity (bytes) and bandwidth (bytes/s over the pins) of all stacks together: as the standard has them
    where not given; banks get the rows and columns the pace that yield them. ValueError for what no number of
    rows can yield.
    """
    if generation not in _STACKS:
        raise ValueError(f"unknown memory {generation!r}; {nearest(generation, list(_STACKS))}")
    stack = _STACKS[generation]
    channels = stack.channels * stacks
    row_of_all = channels * stack.banks * _ROW_BYTES
    capacity = stack.nbytes * stacks if capacity is None else capacity
    if capacity < row_of_all:
        raise ValueError(f"{stacks} stacks of {generation} hold at least {row_of_all} bytes, not {capacity}")
    shape = DramShape(channels, stack.banks, capacity // row_of_all, _ROW_BYTES, _COLUMN_BYTES)
    ccd = channels * _COLUMN_BYTES / (stack.bandwidth * stacks if bandwidth is None else bandwidth)
    timing = replace(stack.timing, ccd=ccd, ccd_mac=2 * ccd)
    return Dram(shape, timing, ENERGY)


def hbm_sources(generation: Generation, path: str = "hbm") -> Mapping[str, str]:
    """Where the figures of `hbm(generation)` come from, for those of a machine that keeps it at `path`. What
    the machine itself decides (`shape.channels`, `shape.rows`, `timing.ccd`) it names on its own."""
    timing = RAMULATOR + _STACKS[generation].source
    joules = ", ".join(f"{path}.energy.{name}" for name in ("activate", "read", "write", "bus"))
    watts = ", ".join(f"{path}.energy.{name}" for name in ("standby", "active", "refresh"))
    return {
        f"{path}.timing": timing,
        f"{path}.shape": timing + "; a row of 1 KiB and columns of 32 bytes in a pseudo channel",
        joules: OCONNOR,
        watts: DRAMSIM3,
        f"{path}.energy.mac": "none: nothing is multiplied in the banks",
    }
