"""FlashAttention: exact attention whose scores never leave the chip. Blocks of keys outside, blocks of
queries inside, with outputs and statistics rescaled as blocks follow each other.

Source: "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", arXiv:2205.14135,
algorithm 1. Differs: causal, so that blocks of queries that see nothing of a block of keys are left out;
block-sparse and backward passes are not here; heads that share a KV head load it each for itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.ops.schedules import KeysOutside, in_place_of, visits_of
from twofold.techniques.attention import schedules_native  # noqa: F401  (fills the registry of kernels)
from twofold.techniques.attention.schedules import ScheduleScheme
from twofold.techniques.base import Claim, Info, Technique

_PAPER = "arXiv:2205.14135"
ONE_METHOD = {"attention-method": "queries attend in one way; name one technique that says how"}


def check_heads(name: str, spec: ModelSpec) -> None:
    """ValueError where `spec` has no keys and values per head, or no layer that sees the whole context."""
    if spec.latent is not None:
        raise ValueError(
            f"technique {name}: {spec.name} caches latents, which this order of computing attention is not "
            "made for; use a model with ordinary attention"
        )
    if not any(spec.is_global(layer) for layer in range(spec.num_layers)):
        raise ValueError(
            f"technique {name}: every layer of {spec.name} sees a window of {spec.window} tokens; use a "
            "model with global layers"
        )


@dataclass(frozen=True)
class FlashAttention(Technique):
    """Blocks of ⌈M / 4d⌉ keys, and of no more than d queries, where `sram` bytes hold M elements."""

    sram: int = 192 * 1024

    info: ClassVar[Info] = Info(
        name="flashattention",
        title="FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
        source=_PAPER,
        summary="exact attention in blocks that fit the chip's memory, keys outside and queries inside",
        seams=("attention",),
        lossless=True,
        provides=("attention-method",),
        excludes=("attention-method",),
        reasons=ONE_METHOD,
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
            why_not="the baseline is an implementation whose other inefficiencies are not known here",
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
            why_not="needs BERT training, whose encoder and optimiser the models here do not have",
        ),
    )

    def __post_init__(self) -> None:
        if self.sram < 1024:
            raise ValueError(
                f"technique flashattention: sram is in bytes; {self.sram} hold no block, give at least 1024"
            )

    def check(self, spec: ModelSpec) -> None:
        """ValueError where heads have no keys of their own, or not one key fits."""
        check_heads("flashattention", spec)

    def blocks(self, head_dim: int, act_bytes: int) -> tuple[int, int]:
        """Keys and queries of a block."""
        keys = -(-(self.sram // act_bytes) // (4 * head_dim))
        return keys, min(keys, head_dim)

    def op(self, plain: Attention, step: StepInput) -> KeysOutside:
        """The op, with its loops counted."""
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

    def attending_scheme(self) -> ScheduleScheme:
        """All layers that see the whole context."""
        return ScheduleScheme(replace(self))
