"""FastSwitch: priorities change while requests run, and switching between requests is made cheap.

Source: "FastSwitch: Optimizing Context Switching Efficiency in Fairness-aware Large Language Model Serving",
arXiv:2411.18424. Caches lie in groups of contiguous blocks, so that a preempted request is few large copies
(`engine.block_groups`); copies go on beside the computation, and what they touch is not used before they are
done; copies of full blocks stay in host memory when a request comes back, so that the next time only newer
blocks go out (`engine.blocks`), and when it ends, so that the next turn of a conversation need not compute
them (`engine.turn_blocks`). `fair_order` holds the priorities. Differs: copies are waited for at the end
of the step that they overlap, where the source lets long ones go on over several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from twofold.engine.swapping import Swapping
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.scheduling.fair_order import FairOrder, Pattern

_PAPER = "arXiv:2411.18424"


def _claim(key: str, figure: str, claimed: tuple[float, float], where: str) -> Claim:
    return Claim(
        key,
        figure,
        claimed,
        "x",
        baseline="vLLM that swaps block by block before each step and keeps no copies, the same priorities",
        model="LLaMA-8B, multi-turn conversations (ShareGPT), 1 request/s, priorities drawn every 25 steps",
        hardware="A10 24 GB, 60 GB of host memory",
        source=f"{_PAPER}, {where}",
        setup=f"fastswitch:{key.replace('-', '_')}",
    )


@dataclass(frozen=True)
class FastSwitch(Technique):
    """frequency: changes of priorities per step. pattern: how they change, "markov" or "random". group:
    blocks of a group (the source's 60 are about 1,000 tokens); 0: blocks are not grouped. overlapped: copies
    overlap with computation. reuse: copies stay in host memory when a request comes back or ends. seed: of
    the priorities."""

    frequency: float = 0.04
    pattern: str = "markov"
    group: int = 60
    overlapped: bool = True
    reuse: bool = True
    seed: int = 0

    info: ClassVar[Info] = Info(
        name="fastswitch",
        title="FastSwitch: Optimizing Context Switching Efficiency in Fairness-aware Large Language Model "
        "Serving",
        source=_PAPER,
        summary="changes priorities as requests run; swaps caches in a few large copies that overlap steps",
        seams=("scheduling",),
        lossless=True,
        provides=("schedule", "swap"),
        excludes=("schedule", "swap", "cache-storage", "retention"),
        reasons={
            "cache-storage": "caches are swapped block by block, and the other technique keeps a part of "
            "them elsewhere: name one of the two",
            "retention": "copies in host memory would hold entries that were dropped since: name one of the "
            "two",
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _claim("p95-ttft", "P95 time to first token, baseline over FastSwitch", (1.4, 11.2), "abstract"),
        _claim("p999-tbt", "P99.9 time between tokens, baseline over FastSwitch", (1.4, 11.2), "abstract"),
    )

    def __post_init__(self) -> None:
        where = "technique fastswitch"
        if not 0 < self.frequency <= 1:
            raise ValueError(
                f"{where}: frequency must be above 0 and at most 1 per step, not {self.frequency!r}"
            )
        if self.pattern not in ("markov", "random"):
            raise ValueError(f"{where}: pattern must be 'markov' or 'random', not {self.pattern!r}")
        if isinstance(self.group, bool) or not isinstance(self.group, int) or self.group < 0:
            raise ValueError(
                f"{where}: group must be a whole number of blocks, 0 for none, not {self.group!r}"
            )

    def scheduling_policy(self) -> FairOrder:
        """The priorities."""
        return FairOrder(max(1, round(1 / self.frequency)), cast(Pattern, self.pattern), self.seed)

    def swapping(self) -> Swapping:
        """How it swaps."""
        return Swapping(self.group, self.overlapped, self.reuse)
