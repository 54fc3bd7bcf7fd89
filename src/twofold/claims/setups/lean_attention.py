"""Claims of arXiv:2405.10480 on decode attention on an A100-80GB: against FlashAttention-2, which gives each
head of each sequence to one unit, and FlashDecoding, which cuts the keys into as many parts for all.

The abstracts give means over a grid of batches, heads and contexts that they do not list; the grid here spans
what their models have: heads of 64, batches of 1 to 8, 4,096 to 524,288 tokens.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

from twofold.claims.ledger import Outcome
from twofold.claims.setups.attention_ops import op_seconds, plain_attention, step_of
from twofold.ops.attention import Span
from twofold.techniques.attention.flashattention_2 import FlashAttention2
from twofold.techniques.attention.lean_attention import Lean

_DEVICE, _DIM = "a100-80g-sxm", 64
_HEADS, _BATCHES, _CONTEXTS = (12, 32, 56), (1, 2, 4, 8), (4096, 16_384, 65_536, 262_144, 524_288)
_HOW = (
    "predicted: one layer in fp16 on the roofline model of an A100-80GB SXM, heads "
    f"{_HEADS}, batches {_BATCHES}, contexts {_CONTEXTS}"
)


def _ratios(baseline: FlashAttention2 | None) -> dict[tuple[int, int, int], float]:
    """Time of the baseline (None: FlashDecoding) over that of LeanAttention, by heads, batch, context."""
    found = {}
    for heads in _HEADS:
        for batch in _BATCHES:
            for context in _CONTEXTS:
                step = step_of([Span(1, context)] * batch)
                plain = plain_attention(heads, _DIM, step.spans)
                cut = replace(plain, split="fixed")
                other = cut if baseline is None else baseline.op(plain, step)
                lean = op_seconds(_DEVICE, Lean().op(plain, step))
                found[heads, batch, context] = op_seconds(_DEVICE, other) / lean
    return found


def over_flashattention_2() -> Outcome:
    """Mean over the grid."""
    found = _ratios(FlashAttention2())
    ours = mean(found.values())
    return Outcome(
        (ours, ours),
        f"from {min(found.values()):.2f} (where heads times batch fill the units) to "
        f"{max(found.values()):.2f}. The source does not list the grid that it averages over, and its "
        "FlashAttention-2 presumably computes a whole tile of rows for a single query, so that a unit reads "
        "more slowly than it could",
        _HOW,
    )


def over_flashattention_2_512k() -> Outcome:
    """The best at 524,288 tokens."""
    best = {key: v for key, v in _ratios(FlashAttention2()).items() if key[2] == 524_288}
    heads, batch, _ = max(best, key=lambda key: best[key])
    ours = best[heads, batch, 524_288]
    return Outcome(
        (ours, ours),
        f"at {heads} heads and a batch of {batch}: where keys are not split, as many of 108 units work, each "
        "as fast as one can read, which is faster than its share of the memory. The source is near 108 / 12, "
        "as if each had its share alone",
        _HOW,
    )


def over_flash_decoding() -> Outcome:
    """Mean over the grid against keys cut into equal parts for all heads."""
    found = _ratios(None)
    ours = mean(found.values())
    return Outcome(
        (ours, ours),
        f"from {min(found.values()):.2f} to {max(found.values()):.2f}: dealing tiles out evenly saves what "
        "units idle in the last round, and the kernel that adds up the parts; the source's grid is not known",
        _HOW,
    )
