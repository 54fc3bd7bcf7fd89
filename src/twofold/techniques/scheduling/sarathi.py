"""Sarathi: prompts in equal chunks, one per batch, which decodes fill up.

Source: "SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills", arXiv:2308.16369.
`decode_maximal` holds the policy. Differs: a batch whose decodes alone reach the chunk size is filled to the
next multiple of it; the last piece of a prompt is as long as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.scheduling.decode_maximal import DecodeMaximal

if TYPE_CHECKING:
    from twofold.engine.batch import Batch
    from twofold.engine.request import Request

_PAPER = "arXiv:2308.16369v1"


class CountedDecodeMaximal(DecodeMaximal):
    """The policy, counting what its batches held.

    counters: chunks scheduled, decodes that shared a batch with one, and batches of whole tiles among those.
    """

    name = "sarathi"

    def __init__(self, chunk: int, tile: int) -> None:
        super().__init__(chunk, tile)
        self._counters = {"chunks": 0, "piggybacked_decodes": 0, "whole_tile_batches": 0}
        self._newest: Batch | None = None

    def chunk(self, request: Request, remaining: int, batch: Batch, tokens_left: int) -> int:
        """What fills the batch; nothing where it has its chunk."""
        if batch is not self._newest:
            self._count()
            self._newest = batch
        return super().chunk(request, remaining, batch, tokens_left)

    @property
    def counters(self) -> dict[str, int]:
        """What the batches so far held, by name. Not while a batch is being scheduled."""
        self._count()
        return self._counters

    def _count(self) -> None:
        """Count the batch asked about last: what became of it is known only once it is complete."""
        batch, self._newest = self._newest, None
        if batch is not None and batch.num_prefills:
            self._counters["chunks"] += batch.num_prefills
            self._counters["piggybacked_decodes"] += batch.num_decodes
            self._counters["whole_tile_batches"] += batch.num_tokens % self.tile == 0


def _claim(
    key: str, figure: str, claimed: float, where: str, model: str, hardware: str, **rest: str
) -> Claim:
    rest.setdefault("baseline", "batches of whole prompts, then batches of decodes")
    return Claim(
        key,
        figure,
        (claimed, claimed),
        "x",
        model=model,
        hardware=hardware,
        source=f"{_PAPER}, {where}",
        **rest,
    )


_DECODE = "decode throughput (marginal time of the decodes in a batch)"
_TOTAL = "throughput, prompt and output tokens"
_PIPELINE = "GPT-3 175B, tensor 8, pipeline 8, chunk 256, batch 27, sequences of 1K to 4K, P:D 10"
_ORCA = "Orca's best case: one whole prompt beside the decodes"


def _llama(size: str, batch: int, length: str, ratio: str) -> str:
    return f"LLaMA-{size}, chunk 256, batch {batch}, sequences of {length}, P:D {ratio}"


@dataclass(frozen=True)
class Sarathi(Technique):
    """Chunked prefills and decode-maximal batches.

    chunk: tokens of a batch, decodes included (the source studies 128, 256 and 512); tile: rows of a matrix
    tile, of which a batch should be a multiple.
    """

    chunk: int = 256
    tile: int = 128

    info: ClassVar[Info] = Info(
        name="sarathi",
        title="SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills",
        source="arXiv:2308.16369",
        summary="splits prompts into equal chunks and adds one to the decodes of each batch",
        seams=("scheduling",),
        lossless=True,
        needs=("chunked-prefill",),
        provides=("schedule",),
        excludes=("schedule",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _claim(
            "decode-a6000-peak",
            _DECODE,
            10.0,
            "figure 8",
            _llama("13B", 2, "1K", "as long as chunks last"),
            "A6000",
            setup="sarathi:decode_a6000_peak",
        ),
        _claim(
            "decode-a6000",
            _DECODE,
            5.45,
            "table 4",
            _llama("13B", 6, "1K", "50:1"),
            "A6000",
            setup="sarathi:decode_a6000",
        ),
        _claim(
            "total-a6000",
            _TOTAL,
            1.33,
            "table 4",
            _llama("13B", 6, "1K", "50:1"),
            "A6000",
            setup="sarathi:total_a6000",
        ),
        _claim(
            "decode-a100",
            _DECODE,
            4.25,
            "table 4",
            _llama("33B", 5, "2K", "63:1"),
            "A100 80 GB",
            setup="sarathi:decode_a100",
        ),
        _claim(
            "total-a100",
            _TOTAL,
            1.25,
            "table 4",
            _llama("33B", 10, "1K", "28:1"),
            "A100 80 GB",
            setup="sarathi:total_a100",
        ),
        _claim(
            "bubbles-gpt3",
            "pipeline bubble time per request, baseline over Sarathi",
            6.29,
            "section 5.3",
            _PIPELINE,
            "64 A100 80 GB (simulated)",
            baseline=_ORCA,
            setup="sarathi:bubbles_gpt3",
        ),
        _claim(
            "total-gpt3",
            "completion time of all requests, baseline over Sarathi",
            1.91,
            "section 5.3",
            _PIPELINE,
            "64 A100 80 GB (simulated)",
            baseline=_ORCA,
            setup="sarathi:total_gpt3",
        ),
    )

    def __post_init__(self) -> None:
        for name in ("chunk", "tile"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"technique sarathi: {name} must be a whole number from 1 up, not {value!r}")
        if self.chunk % self.tile:
            nearest = max(1, round(self.chunk / self.tile)) * self.tile
            raise ValueError(
                f"technique sarathi: chunk must be a multiple of tile ({self.tile}), not {self.chunk}; "
                f"use chunk={nearest}, or a tile that divides it"
            )

    def scheduling_policy(self) -> CountedDecodeMaximal:
        """A policy of its own for every engine."""
        return CountedDecodeMaximal(self.chunk, self.tile)
