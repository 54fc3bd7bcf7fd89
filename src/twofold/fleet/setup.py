"""What the process of an instance is told first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twofold.devices.clock import WallClock
from twofold.fleet.instance import Instance, check_can_move
from twofold.plan import Plan


@dataclass(frozen=True, slots=True)
class Setup:
    """The instance that a process is to build. technique: the name of the one over the instances, which is
    not in the plan; start: when the clock of the fleet began; threads: that it may use; profile: whether it
    times every op."""

    plan: Plan
    technique: str
    checkpoint: str
    calibration: Sequence[int] | None
    number: int
    start: float
    threads: int
    profile: bool = False

    def build(self) -> Instance:
        """The instance."""
        from twofold.devices.registry import make_device
        from twofold.engine.build import build_engine
        from twofold.models.loading import load_checkpoint

        options = {**self.plan.engine.device_options, "threads": self.threads}
        device = make_device(self.plan.device, **options, profile=self.profile)
        device.clock = WallClock(self.start)
        checkpoint = load_checkpoint(self.checkpoint)
        ids = self.calibration
        engine = build_engine(
            self.plan,
            device,
            checkpoint.spec,
            checkpoint,
            calibration=None if ids is None else lambda: ids,
        )
        check_can_move(engine, self.technique)
        return Instance(self.number, engine)
