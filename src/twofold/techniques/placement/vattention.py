"""vAttention: the cache of a sequence is contiguous in virtual memory, and physical pages are put behind it
as it grows, so that kernels need no block tables.

Source: "vAttention: Dynamic Memory Management for Serving LLMs without PagedAttention", arXiv:2405.04437, and
github.com/microsoft/vattention: every request gets a range of each layer's virtual tensors; pages are mapped
by a background thread for the next iterations, ahead of need; those of a finished request stay where they are
for the next one in its range (deferred reclamation) until somebody needs them.

Differs: a page belongs to a block of the engine's, which are as large as whole pages make them, so that
requests may also share the pages of a prefix. On a GPU pages are mapped by the driver's own calls
(`cuda_driver`), which take 2 MiB at the least; the source has smaller ones from a driver that it changed.
They were checked against a stand-in of the driver, and have not yet run on a GPU. On a CPU pages are those of
a file in memory, mapped by mmap. Attention is the native kernel over blocks that follow each other, or the
reference kernel, which then reads in place what it otherwise gathers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.placement.info import EXCLUDES, PROVIDES, REASONS, check_page_size
from twofold.techniques.placement.pager import Pager

_PAPER = "arXiv:2405.04437v1"
_HARDWARE = "NVIDIA A100 80GB"


@dataclass(frozen=True)
class VAttention(Technique):
    """page_size: bytes of a physical page; None: the least that the device maps (2 MiB through CUDA, or
    65536, 131072, 262144 with the source's driver; 4096 on a CPU). deferred_reclamation: pages of finished
    requests stay mapped until they are needed. eager_steps: decoding steps ahead of need for which pages are
    mapped in the background; 0 maps them in time of need.
    """

    page_size: int | None = None
    deferred_reclamation: bool = True
    eager_steps: int = 10

    info: ClassVar[Info] = Info(
        name="vattention",
        title="vAttention: Dynamic Memory Management for Serving LLMs without PagedAttention",
        source="arXiv:2405.04437",
        summary="maps cache pages on demand into contiguous virtual memory; attention needs no block table",
        seams=("placement",),
        lossless=True,
        provides=PROVIDES,
        excludes=EXCLUDES,
        reasons=REASONS,
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "decode-throughput",
            "decode throughput over vLLM's (up to; contexts of 16384 tokens)",
            (1.97, 1.97),
            "×",
            "vLLM 0.2.7 with its own paged kernel",
            "Yi-6B",
            _HARDWARE,
            f"{_PAPER}, abstract and section 7.2, figure 9",
            "vattention:decode_throughput",
        ),
        *(
            Claim(
                f"prefill-{key}",
                f"time to process prompts, {kernel} with block tables over vAttention (up to)",
                (value, value),
                "×",
                f"{kernel} with block tables",
                "Yi-6B, Llama-3-8B, Yi-34B",
                _HARDWARE,
                f"{_PAPER}, abstract",
                why_not="what block tables cost a prefill kernel is a property of those versions' code, "
                "which no device here models: attention takes the same time with and without them",
            )
            for key, kernel, value in (("fa2", "FlashAttention", 3.92), ("flashinfer", "FlashInfer", 1.45))
        ),
    )

    def __post_init__(self) -> None:
        check_page_size(self.info.name, "page_size", self.page_size)
        if self.eager_steps < 0:
            raise ValueError(f"technique vattention: eager_steps must not be negative, as {self.eager_steps}")

    def paging(self) -> Pager:
        """A Pager that keeps what it mapped, if `deferred_reclamation`."""
        return Pager(self.page_size, lookahead=self.eager_steps, keep=self.deferred_reclamation)
