"""Claims of arXiv:2205.14135 on memory traffic (figure 2, left): GPT-2 medium's attention, forward and
backward, 1,024 tokens, 16 heads of 64, batch 64, in 16 bits.

Counted by the algorithms as the source writes them (0, 1, 3 and 4), with 192 KB on the chip.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.ops.io_bound import Shape, flash_attention

_TOKENS, _WIDTH, _HEADS, _BYTES = 1024, 64, 16 * 64, 2
_SRAM = 192 * 1024 // _BYTES
_HOW = "counted: elements that cross the chip's edge, algorithms 0, 1, 3 and 4, without mask and dropout"


def standard_bytes() -> float:
    """Standard attention: eleven passes over the scores (four forward, seven backward), twelve over
    vectors."""
    elements = 11 * _TOKENS * _TOKENS + 12 * _TOKENS * _WIDTH
    return float(elements * _HEADS * _BYTES)


def flash_bytes() -> float:
    """FlashAttention: its forward pass; backward, each visit reads queries, outputs, their gradients and two
    statistics and writes a gradient, and each block of keys is read and its gradients are written."""
    forward = flash_attention(Shape(_TOKENS, _TOKENS, _WIDTH), _SRAM)
    blocks = -(-_TOKENS // -(-_SRAM // (4 * _WIDTH)))
    backward = blocks * _TOKENS * (6 * _WIDTH + 2) + 4 * _TOKENS * _WIDTH
    return float((forward + backward) * _HEADS * _BYTES)


def hbm_traffic() -> Outcome:
    """Standard attention over FlashAttention."""
    standard, flash = standard_bytes(), flash_bytes()
    ratio = standard / flash
    return Outcome(
        (ratio, ratio),
        f"standard attention moves {standard / 1e9:.1f} GB here and 40.3 GB there, where masking and dropout "
        f"pass over the scores as well; FlashAttention {flash / 1e9:.1f} GB here and 4.4 GB there",
        _HOW,
    )


def flash_traffic() -> Outcome:
    """Gigabytes of FlashAttention."""
    moved = flash_bytes() / 1e9
    return Outcome(
        (moved, moved),
        "blocks of 384 keys: three of them pass by all queries, forward and backward",
        _HOW,
    )
