"""Llumnix: one policy moves requests between instances while they run, for load, memory, priority or scaling.

Source: "Llumnix: Dynamic Scheduling for Large Language Model Serving", arXiv:2406.03243. `freeness` holds the
policy, `fleet.migration` the live migration. The headroom is that of its authors' artifact (100 blocks of 16
tokens); the other defaults are chosen here: the artifact's thresholds differ by trace (requests move at 3 or
10 blocks, 48 or 160 tokens, per request). Differs: one instance moves one request at a time, and an instance
that is switched on serves at once (the paper's takes as long as its model takes to load).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.fleet.policy import Stages
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.scheduling.freeness import Freeness
from twofold.techniques.scheduling.splitwise import REASONS

_PAPER = "arXiv:2406.03243"


@dataclass(frozen=True)
class Llumnix(Technique):
    """instances: of the model. headroom: tokens kept free beside requests of high priority (priority below
    0). migrate_out, migrate_in: requests move from instances whose freeness (steps that they can still run)
    is below migrate_out to instances above migrate_in. interval: seconds between two checks for moves.
    max_stages, last_stage_max_blocks: of a migration (see `fleet.policy.Stages`). scaling: whether instances
    are switched on and off; scale_up, scale_down: average freeness below which one is added, and above which
    one is removed."""

    instances: int = 2
    headroom: int = 1600
    migrate_out: float = 60.0
    migrate_in: float = 60.0
    interval: float = 0.05
    max_stages: int = 3
    last_stage_max_blocks: int = 16
    scaling: bool = False
    scale_up: float = 10.0
    scale_down: float = 60.0

    info: ClassVar[Info] = Info(
        name="llumnix",
        title="Llumnix: Dynamic Scheduling for Large Language Model Serving",
        source=_PAPER,
        summary="moves running requests between instances for balance, memory, priorities and scaling",
        seams=("scheduling",),
        lossless=True,
        provides=("fleet",),
        excludes=("fleet", "cache-storage", "retention"),
        reasons=REASONS,
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "high-priority",
            "mean latency of high-priority requests without priorities over with them (up to)",
            (1.5, 1.5),
            "x",
            baseline="Llumnix that knows no priorities",
            model="LLaMA-7B, 16 instances, 10 % of the requests important, 128 tokens in and out on average, "
            "26 requests/s, Gamma arrivals",
            hardware="16 A10",
            source=f"{_PAPER}, abstract; 1.2 to 1.5 with coefficients of variation from 2 to 8 (figure 13, "
            "its authors' artifact)",
            setup="llumnix:high_priority",
        ),
        Claim(
            "tail-ttft",
            "P99 time to first token, INFaaS++ over Llumnix (up to)",
            (14.8, 14.8),
            "x",
            baseline="INFaaS++: dispatch by load as Llumnix's, no migration",
            model="LLaMA-7B, 16 instances, power-law lengths (the largest gain: 512 tokens in and out on "
            "average, 3 to 3.1 requests/s), Poisson arrivals",
            hardware="16 A10",
            source=f"{_PAPER}, figure 11 as its authors' artifact puts it (abstract: an order of magnitude)",
            setup="llumnix:tail_ttft",
        ),
        Claim(
            "cost-saving",
            "share of instance time saved by auto-scaling at a similar tail latency (up to)",
            (36.0, 36.0),
            "%",
            baseline="INFaaS++: dispatch and scaling by load, no migration",
            model="LLaMA-7B, up to 16 instances",
            hardware="16 A10",
            source=f"{_PAPER}, abstract",
            why_not="the saving at equal tails is read from two curves over scaling thresholds (figure 15), "
            "which are not predicted here",
        ),
    )

    def __post_init__(self) -> None:
        for name, low in (
            ("instances", 2),
            ("headroom", 0),
            ("max_stages", 1),
            ("last_stage_max_blocks", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(
                    f"technique llumnix: {name} must be a whole number from {low} up, not {value!r}"
                )
        if not self.interval >= 0:
            raise ValueError(f"technique llumnix: interval must be 0 seconds or more, not {self.interval!r}")
        for low_name, high_name in (("scale_up", "scale_down"), ("migrate_out", "migrate_in")):
            low, high = getattr(self, low_name), getattr(self, high_name)
            if not low <= high:
                raise ValueError(
                    f"technique llumnix: {low_name} must be at most {high_name} ({high:g}), not {low:g}, or "
                    "requests and instances would go back and forth"
                )

    def fleet_policy(self) -> Freeness:
        """The policy."""
        return Freeness(
            self.instances,
            Stages(self.max_stages, self.last_stage_max_blocks),
            headroom=self.headroom,
            migrate_out=self.migrate_out,
            migrate_in=self.migrate_in,
            interval=self.interval,
            scaling=(self.scale_up, self.scale_down) if self.scaling else None,
        )
