"""vTensor: a sequence's keys and values are a tensor in virtual memory that chunks of a pool of physical
memory are mapped into and taken out of, by a manager on the CPU that runs beside the computation.

Source: "vTensor: Flexible Virtual Tensor Management for Efficient LLM Serving", arXiv:2407.15309, and
github.com/intelligent-machine-learning/glake (GLakeServe): tensors of the longest context are reserved for
every layer; they are extended by chunks during decoding, by a thread of their own, well ahead of need; chunks
of a common prefix are mapped into every tensor that begins with it; a released tensor is unmapped at once.

Differs: as `vattention` does; chunks are as large as a page of the device where none are named, and chunks
that belong to nobody go back to the system, so that other users of the memory have it (the source's pool
keeps what it once took, and takes no more than it needs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.placement.info import EXCLUDES, PROVIDES, REASONS, check_page_size
from twofold.techniques.placement.pager import Pager

_PAPER = "arXiv:2407.15309v1, abstract"
_HARDWARE = "NVIDIA A100 80GB"
_KERNELS = (
    "the ratio is that of kernels for contiguous keys to those versions of paged ones, whose code no device "
    "here models: attention takes the same time with and without block tables"
)
_SGLANG, _VLLM = "SGLang's kernel in Triton", "vLLM's paged kernel"
_UNMODELLED = (
    ("end-to-end", "throughput, mean over models", 1.86, "vLLM"),
    ("multi-turn", "throughput in chats of several turns (up to)", 2.42, "vLLM"),
    ("prefill-kernel", "speed of attention to a prefix in prefill, mean", 2.12, _SGLANG),
    ("prefill-kernel-best", "speed of attention to a prefix in prefill (up to)", 3.92, _SGLANG),
    ("decode-kernel", "speed of attention in decode, mean", 3.15, _VLLM),
    ("decode-kernel-best", "speed of attention in decode (up to)", 3.27, _VLLM),
)
"""Key, figure, value and baseline of claims that no device here can predict."""


@dataclass(frozen=True)
class VTensor(Technique):
    """chunk_size: bytes of a physical chunk; None: the least that the device maps (2 MiB through CUDA, 4096
    on a CPU). extend_ahead: tokens ahead of need for which a decoding sequence is extended in the background;
    0 extends it in time of need.
    """

    chunk_size: int | None = None
    extend_ahead: int = 100

    info: ClassVar[Info] = Info(
        name="vtensor",
        title="vTensor: Flexible Virtual Tensor Management for Efficient LLM Serving",
        source="arXiv:2407.15309",
        summary="maps chunks of a physical pool into virtual tensors, and gives back what is free",
        seams=("placement",),
        lossless=True,
        provides=PROVIDES,
        excludes=EXCLUDES,
        reasons=REASONS,
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "freed-memory",
            "share of the GPU's memory that is free for others and vLLM reserves",
            (0.7125, 0.7125),
            "share",
            "vLLM, which reserves 90 % of the memory",
            "Yi-6B",
            _HARDWARE,
            _PAPER,
            "vtensor:freed_memory",
        ),
        *(
            Claim(
                key, figure, (value, value), "×", baseline, "Yi series", _HARDWARE, _PAPER, why_not=_KERNELS
            )
            for key, figure, value, baseline in _UNMODELLED
        ),
    )

    def __post_init__(self) -> None:
        check_page_size(self.info.name, "chunk_size", self.chunk_size)
        if self.extend_ahead < 0:
            raise ValueError(f"technique vtensor: extend_ahead must not be negative, as {self.extend_ahead}")

    def paging(self) -> Pager:
        """A Pager that unmaps what a sequence leaves, and gives free memory back."""
        return Pager(self.chunk_size, lookahead=self.extend_ahead, keep=False)
