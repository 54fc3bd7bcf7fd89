"""Two-pass softmax: exponentials are kept as a mantissa and an exponent, which cannot overflow, so that no
pass is needed to find the maximum first.

Source: "The Two-Pass Softmax Algorithm", arXiv:2001.04438, algorithm 3. Differs: here it is the softmax of
attention, where the scores of a tile lie in the nearest cache; `kernels.cpu.softmax` computes whole rows, in
two passes or three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.ops.schedules import TwoPassAttention, in_place_of
from twofold.techniques.attention.schedules import ScheduleTechnique
from twofold.techniques.base import Claim, Info

_PAPER = "arXiv:2001.04438"


def _speedup(key: str, vectors: str, most: float) -> Claim:
    return Claim(
        f"over-three-pass-{key}",
        f"softmax speed over three passes on rows that no cache holds, {vectors}, at best",
        (1 + most, 1 + most),
        "×",
        "three passes that compute exponentials again",
        "rows of 8,388,608 float32 and more",
        "Xeon W-2135 (Skylake-X)",
        f"{_PAPER}, abstract and section 6.3",
        "two_pass_softmax:over_three_pass",
    )


@dataclass(frozen=True)
class TwoPassSoftmax(ScheduleTechnique):
    """Attention with softmax in two passes; no parameters."""

    info: ClassVar[Info] = Info(
        name="two-pass-softmax",
        title="The Two-Pass Softmax Algorithm",
        source=_PAPER,
        summary="keeps the exponentials of softmax as mantissa and exponent, so that it needs no maximum",
        seams=("attention",),
        lossless=True,
        provides=("attention-method",),
        excludes=("attention-method",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _speedup("avx512", "AVX-512", 0.28),
        _speedup("avx2", "AVX2", 0.18),
    )

    def op(self, plain: Attention, step: StepInput) -> TwoPassAttention:
        """The op: that of plain attention but for its softmax."""
        del step
        return in_place_of(plain, TwoPassAttention)
