"""Claim of arXiv:2206.09557 on latency: OPT-175B with 3-bit weights on one A100 with 80 GB, one sequence.

OPTQ stands for a kernel that reads as many bits and widens them: symmetric 3-bit integers in groups of 128.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds

_MODEL, _DEVICE = "opt-175b", "a100-80g-sxm"
_PROMPT, _TOKENS = 128, 32


def _token(technique: str) -> float:
    """Seconds of a token after the prompt."""
    seconds = []
    for output in (1, 1 + _TOKENS):
        load = BatchLoad(1, _PROMPT, output)
        engine = predicted_engine(_MODEL, _DEVICE, [technique], load, memory_share=1.0)
        seconds.append(predicted_seconds(engine, load))
    return (seconds[1] - seconds[0]) / _TOKENS


def latency_opt_175b() -> Outcome:
    """Seconds of a token with a widening 3-bit kernel over those with tables."""
    widened = _token("int-vs-fp:format=int3-g128")
    looked_up = _token("lut-gemm:q=3,g=1024,mu=8")
    return Outcome(
        (widened / looked_up, widened / looked_up),
        "both read 3 bits a weight and little else; widening takes the units longer than the memory takes to "
        "deliver. It is charged at the rate of the best published 4-bit kernels; OPTQ's own 3-bit kernel "
        "presumably reaches a part of that",
        f"predicted: OPT-175B on the roofline model of an A100 SXM 80 GB, one sequence: {widened * 1e3:.1f} "
        f"ms a token widened, {looked_up * 1e3:.1f} ms from tables of 8",
    )
