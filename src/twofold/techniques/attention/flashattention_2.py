"""FlashAttention-2: the outer loop goes over blocks of queries, each on a unit of its own, the inner one over
keys; outputs are rescaled once per block and divided once at the end.

Source: "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", arXiv:2307.08691,
algorithm 1 and section 3.2. Differs: how the warps of a unit share a block is not modelled; native CPU
kernels go over partitions of 256 keys whatever `key_block` is, which changes no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.ops.schedules import QueriesOutside, in_place_of, passes_of
from twofold.techniques.attention.schedules import ScheduleTechnique
from twofold.techniques.base import Claim, Info

_PAPER = "arXiv:2307.08691"


@dataclass(frozen=True)
class FlashAttention2(ScheduleTechnique):
    """Blocks of `query_block` queries against blocks of `key_block` keys: section 3.3 uses 64 and 128."""

    query_block: int = 128
    key_block: int = 64

    info: ClassVar[Info] = Info(
        name="flashattention-2",
        title="FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
        source=_PAPER,
        summary="exact attention in blocks of queries that run in parallel, each over all keys it may see",
        seams=("attention",),
        lossless=True,
        provides=("attention-method",),
        excludes=("attention-method",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "over-flashattention",
            "attention speed over FlashAttention, forward, 512 to 16,384 tokens, mean",
            (2.0, 2.0),
            "×",
            "FlashAttention",
            "2,048 wide, heads of 64 and 128, 16,384 tokens a batch, causal and not",
            "A100-80GB SXM4",
            f"{_PAPER}, abstract and figures 4 to 6",
            "flashattention_2:over_flashattention",
        ),
        Claim(
            "share-of-peak",
            "share of the matrix units' peak, forward, at best",
            (0.73, 0.73),
            "share",
            "peak of 312 TFLOP/s",
            "heads of 128, 16,384 tokens, not causal",
            "A100-80GB SXM4",
            f"{_PAPER}, section 4.1",
            "flashattention_2:share_of_peak",
        ),
        Claim(
            "gpt-training",
            "training throughput of one GPU",
            (225.0, 225.0),
            "TFLOP/s",
            "",
            "GPT-3 style, 1.3B and 2.7B, 2,048 and 8,192 tokens",
            "8 × A100-80GB SXM4",
            f"{_PAPER}, table 1",
            why_not="needs the backward pass of attention, which has no schedule here",
        ),
    )

    def __post_init__(self) -> None:
        for name in ("query_block", "key_block"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"technique flashattention-2: {name} must be at least 1, not {getattr(self, name)}; "
                    "usual values are 64 and 128"
                )

    def op(self, plain: Attention, step: StepInput) -> QueriesOutside:
        """The op, with the iterations of its loops counted."""
        passes = visits = pairs = 0
        for span in step.spans:
            before = span.keys - span.queries
            passes += passes_of(span, self.query_block)
            for start in range(0, span.queries, self.query_block):
                rows = min(self.query_block, span.queries - start)
                end = before + start + rows
                visits += rows * -(-end // self.key_block)
                pairs += rows * end
        return in_place_of(
            plain,
            QueriesOutside,
            totals=plain.totals._replace(pairs=pairs),
            rows=self.query_block,
            split="none",
            key_block=self.key_block,
            query_block=self.query_block,
            passes=passes,
            visits=visits,
        )
