"""The figures of PIM-GPT and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.devices.parts.dram import NS, DramEnergy, DramShape, DramTiming
from twofold.devices.parts.vector_unit import VectorUnit

PAPER = "arXiv:2310.09385, hardware configuration, as quoted by a later study of baselines"
AIM = "github.com/arkhadem/aim_simulator @0f28a07, GDDR6_AiM_org and GDDR6_AiM_timing (tCK 0.5 ns)"
AIM_POWER = (
    "github.com/arkhadem/aim_simulator @0f28a07, scripts/cellar_power_calculator.py (figures per channel)"
)
DRAMSIM = "github.com/hplp/DRAMsim3 @243602b, configs/GDDR6_8Gb_x16.ini: (IDD5AB - IDD3N) * VDD * tRFC"

SOURCES: dict[str, str] = {
    "shape.channels, shape.banks": PAPER + ": 8 channels of 16 banks",
    "shape.rows, shape.row_bytes": AIM + ": 16 Ki rows of 2 KiB in each of 16 banks, 4 Gbit a channel",
    "shape.column_bytes": PAPER + ": 16 bfloat16 multipliers per bank",
    "timing": AIM + ": partly from profiling AiM hardware; a column per 1 ns is also the paper's 1 GHz",
    "energy.activate": AIM_POWER + ": 66.3 mW over a row cycle of 44.5 ns",
    "energy.read, energy.write": AIM_POWER + ": 438.15 and 553.15 mW over a burst of 1.25 ns",
    "energy.mac": AIM_POWER + ": three times the read power for 1 ns; mac_watts come on top",
    "energy.bus": AIM_POWER + ": 5.5 pJ per bit",
    "energy.standby, energy.active": AIM_POWER + ": 183.15 and 263.75 mW",
    "energy.refresh": DRAMSIM,
    "mac_watts, asic_watts": PAPER + ": 149.29 mW per channel, 304.59 mW",
    "buffer_bytes": "assumption: the buffer holds as much of the input as a row holds of the matrix",
    "asic.hertz": PAPER + ": 1 GHz",
    "asic.multipliers, asic.adders, asic.latency": "assumption: no unit counts found; half or twice as "
    "many move a GPT's token by less than 10 %",
}
"""Where each figure of `PimGptConfig` comes from."""


@dataclass(frozen=True, slots=True)
class PimGptConfig:
    """The machine. Defaults: SOURCES says where each comes from.

    mac_watts: power of one channel's multipliers while they run; buffer_bytes: input vector held per channel;
    asic: its arithmetic; asic_watts: its power, always on.
    """

    shape: DramShape = field(default_factory=lambda: DramShape(8, 16, 16384, 2048, 32))
    timing: DramTiming = field(
        default_factory=lambda: DramTiming(
            rcd_read=18 * NS,
            rcd_write=14 * NS,
            rcd_mac=28 * NS,
            rp=16 * NS,
            ras=27 * NS,
            rc=44.5 * NS,
            ccd=1 * NS,
            rtp=6 * NS,
            wr=16.5 * NS,
            cl=25 * NS,
            cwl=3 * NS,
            rrd=5.5 * NS,
            faw=21 * NS,
            rfc=105 * NS,
            refi=1666.5 * NS,
        )
    )
    energy: DramEnergy = field(
        default_factory=lambda: DramEnergy(
            activate=66.3e-3 * 44.5 * NS,
            read=438.15e-3 * 1.25 * NS,
            write=553.15e-3 * 1.25 * NS,
            mac=3 * 438.15e-3 * 1 * NS,
            bus=8 * 5.5e-12,
            refresh=(286e-3 - 61e-3) * 1.35 * 126 * 0.66 * NS,
            standby=183.15e-3,
            active=263.75e-3,
        )
    )
    mac_watts: float = 149.29e-3
    buffer_bytes: int = 2048
    asic: VectorUnit = field(
        default_factory=lambda: VectorUnit(multipliers=128, adders=256, hertz=1e9, latency=2)
    )
    asic_watts: float = 304.59e-3

    def __post_init__(self) -> None:
        if self.buffer_bytes < self.shape.column_bytes or self.buffer_bytes % self.shape.column_bytes:
            raise ValueError(
                f"pim-gpt: buffer_bytes ({self.buffer_bytes}) must be a multiple of a column "
                f"({self.shape.column_bytes} bytes)"
            )
        for name in ("mac_watts", "asic_watts"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"pim-gpt: {name} must not be negative, not {getattr(self, name)!r}")
