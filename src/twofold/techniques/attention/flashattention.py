"""FlashAttention: exact attention whose scores never leave the chip. The outer loop goes over blocks of keys,
the inner one over blocks of queries, and outputs and statistics are rescaled from block to block.

Source: "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", arXiv:2205.14135,
algorithm 1. Differs: causal, so that blocks of queries that see nothing of a block of keys are skipped;
without the block-sparse and backward passes; heads that share a KV head each load it for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.ops.schedules import KeysOutside, in_place_of, visits_of
from twofold.techniques.attention.schedules import ScheduleTechnique
from twofold.techniques.base import Claim, Info

_PAPER = "arXiv:2205.14135"
_NO_TRAINING = "a training run; the models here have no backward pass and no optimiser"
_NO_LONGER = (
    "quality that longer contexts bring a model which is trained on them; nothing is trained here, and the "
    "method itself changes no result"
)
_LONGER = (
    ("gpt-2-perplexity", "perplexity gained by a context of 4,096 tokens", 0.7, "1", "1,024 tokens", "GPT-2"),
    ("documents", "gain in classifying long documents", 6.4, "points", "512 tokens", "RoBERTa"),
    ("path-x", "accuracy on Path-X (16,384 tokens)", 61.4, "%", "chance", "Transformer"),
    ("path-256", "accuracy on Path-256 (65,536 tokens)", 63.1, "%", "chance", "block-sparse Transformer"),
)
"""Key, figure, value, unit, baseline and model of claims on quality."""


@dataclass(frozen=True)
class FlashAttention(ScheduleTechnique):
    """Blocks of ⌈M / 4d⌉ keys and of at most d queries, where `sram` bytes hold M elements and heads are d
    wide."""

    sram: int = 192 * 1024

    info: ClassVar[Info] = Info(
        name="flashattention",
        title="FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
        source=_PAPER,
        summary="exact attention in blocks that fit on-chip memory; the outer loop goes over keys",
        seams=("attention",),
        lossless=True,
        provides=("attention-method",),
        excludes=("attention-method",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "hbm-traffic",
            "memory traffic, standard attention over FlashAttention (forward and backward)",
            (40.3 / 4.4, 40.3 / 4.4),
            "×",
            "standard attention in PyTorch",
            "GPT-2 medium (1,024 tokens, 16 heads of 64, batch 64)",
            "A100-40GB",
            f"{_PAPER}, figure 2, left",
            "flashattention:hbm_traffic",
        ),
        Claim(
            "hbm-traffic-of-its-own",
            "memory traffic of FlashAttention (forward and backward)",
            (4.4, 4.4),
            "GB",
            "",
            "GPT-2 medium (1,024 tokens, 16 heads of 64, batch 64)",
            "A100-40GB",
            f"{_PAPER}, figure 2, left",
            "flashattention:flash_traffic",
        ),
        Claim(
            "gpt-2-training",
            "training speed over Hugging Face's implementation (1,024 tokens)",
            (3.0, 3.5),
            "×",
            "Hugging Face",
            "GPT-2 small and medium",
            "8 × A100-40GB",
            f"{_PAPER}, table 2",
            why_not=_NO_TRAINING,
        ),
        Claim(
            "bert-training",
            "training time to a target accuracy against the MLPerf 1.1 record",
            (1.15, 1.15),
            "×",
            "Nvidia's MLPerf 1.1 submission",
            "BERT-large (512 tokens)",
            "8 × A100-80GB",
            f"{_PAPER}, table 1",
            why_not=_NO_TRAINING,
        ),
        Claim(
            "long-range-arena",
            "training speed on the long-range arena (1,024 to 4,096 tokens)",
            (2.4, 2.4),
            "×",
            "standard attention",
            "Transformer",
            "A100",
            f"{_PAPER}, abstract",
            why_not=_NO_TRAINING,
        ),
        *(
            Claim(
                key,
                figure,
                (value, value),
                unit,
                baseline,
                model,
                "A100",
                f"{_PAPER}, abstract",
                why_not=_NO_LONGER,
            )
            for key, figure, value, unit, baseline, model in _LONGER
        ),
    )

    def __post_init__(self) -> None:
        if self.sram < 1024:
            raise ValueError(f"technique flashattention: sram must be at least 1024 bytes, not {self.sram}")

    def blocks(self, head_dim: int, act_bytes: int) -> tuple[int, int]:
        """Keys and queries of a block."""
        keys = -(-(self.sram // act_bytes) // (4 * head_dim))
        return keys, min(keys, head_dim)

    def op(self, plain: Attention, step: StepInput) -> KeysOutside:
        """The op, with the iterations of its loops counted."""
        keys, queries = self.blocks(plain.head_dim, plain.act_bytes)
        visits = sum(visits_of(span, keys) for span in step.spans)
        pairs = sum(
            (span.queries - max(0, begin - (span.keys - span.queries))) * min(keys, span.keys - begin)
            for span in step.spans
            for begin in range(0, span.keys, keys)
        )
        return in_place_of(
            plain,
            KeysOutside,
            totals=plain.totals._replace(pairs=pairs),
            rows=max(span.queries for span in step.spans),
            split="none",
            key_block=keys,
            query_block=queries,
            visits=visits,
        )
