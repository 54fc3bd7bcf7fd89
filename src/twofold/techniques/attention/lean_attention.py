"""LeanAttention: the keys of all sequences and heads of a decode step form one line of tiles, which is
divided evenly among units; since softmax states merge associatively, it may be cut anywhere.

Source: "Lean Attention: Hardware-Aware Scalable Attention Mechanism for the Decode-Phase of Transformers",
arXiv:2405.10480, section 4 (stream-K after Osama et al., 2023). Differs: query heads that share a KV head go
together; sequences that read a prompt attend in blocks of queries, as in the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.ops.schedules import LeanAttention, deal_tiles, in_place_of, tiles_of
from twofold.techniques.attention.schedules import ScheduleTechnique
from twofold.techniques.base import Claim, Info

_PAPER = "arXiv:2405.10480"


@dataclass(frozen=True)
class Lean(ScheduleTechnique):
    """tile: keys of a tile (the source on an A100: 256 for heads of 64, 128 for heads of 128). workers: units
    that share the tiles (an A100's 108; on a CPU, its cores)."""

    tile: int = 256
    workers: int = 108

    info: ClassVar[Info] = Info(
        name="lean-attention",
        title=(
            "Lean Attention: Hardware-Aware Scalable Attention Mechanism for the Decode-Phase of Transformers"
        ),
        source=_PAPER,
        summary="exact decode attention that divides the keys of all sequences and heads evenly among units",
        seams=("attention",),
        lossless=True,
        provides=("attention-method",),
        excludes=("attention-method",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "over-flashattention-2",
            "decode attention speed over FlashAttention-2, mean",
            (2.6, 2.6),
            "×",
            "FlashAttention-2",
            "one layer, batches and heads of many sizes",
            "A100-80GB",
            f"{_PAPER}v1, abstract",
            "lean_attention:over_flashattention_2",
        ),
        Claim(
            "over-flashattention-2-512k",
            "decode attention speed over FlashAttention-2 at 524,288 tokens, at best",
            (8.33, 8.33),
            "×",
            "FlashAttention-2",
            "one layer",
            "A100-80GB",
            f"{_PAPER}v1, abstract",
            "lean_attention:over_flashattention_2_512k",
        ),
        Claim(
            "over-flash-decoding",
            "decode attention speed over FlashDecoding, mean",
            (1.73, 1.73),
            "×",
            "FlashDecoding",
            "one layer, batches and heads of many sizes",
            "A100-80GB",
            f"{_PAPER}v2, abstract",
            "lean_attention:over_flash_decoding",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique lean-attention"
        if self.tile < 16 or self.tile % 16:
            nearest = max(16, round(self.tile / 16) * 16)
            raise ValueError(f"{where}: tile must be a multiple of 16 keys, not {self.tile}; use {nearest}")
        if self.workers < 1:
            raise ValueError(f"{where}: workers must be at least 1, not {self.workers}")

    def op(self, plain: Attention, step: StepInput) -> Attention:
        """The op where sequences decode, with its segments counted; plain attention where all read
        prompts."""
        singles = [span for span in step.spans if span.queries == 1]
        if not singles:
            return plain
        tiles = [tiles_of(span, self.tile) for span in singles for _ in range(plain.kv_heads)]
        shares = deal_tiles(tiles, self.workers)
        segments = [segment for share in shares for segment in share]
        split = len(segments) - len(tiles)  # states beyond the one that each output has anyway
        met = {
            segment.output for share in shares for segment in share if segment.last < tiles[segment.output]
        }
        return in_place_of(
            plain,
            LeanAttention,
            split="even" if len(singles) == len(step.spans) else "auto",
            tile=self.tile,
            workers=self.workers,
            partials=(split + len(met)) * plain.heads // plain.kv_heads,
            busiest=max(sum(s.last - s.first for s in share) for share in shares),
            dealt=sum(tiles),
        )
