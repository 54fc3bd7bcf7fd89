"""Claims of arXiv:2205.14135 on memory traffic (figure 2, left): GPT-2 medium's attention, forward and
backward, 1,024 tokens, 16 heads of 64, batch 64, in 16 bits.

FlashAttention is counted by the source's algorithms 1 and 4, with 192 KB on the chip. Standard attention is
what its benchmarks run (benchmark_flash_attention.py, attention_pytorch): products, an added causal mask,
softmax and dropout, each a kernel of its own that passes over all scores.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.ops.io_bound import Shape, flash_attention

_TOKENS, _WIDTH, _HEADS, _BYTES = 1024, 64, 16 * 64, 2
_SRAM = 192 * 1024 // _BYTES
_HOW = "counted: elements that cross the chip's edge, by the algorithms and by PyTorch's kernels"
_FORWARD = {"scores": 1, "mask": 2, "softmax": 2, "dropout": 2.5, "output": 1}
_BACKWARD = {"of values": 1, "of weights": 1, "dropout": 2.5, "softmax": 3, "of queries": 1, "of keys": 1}
"""Passes over the scores by kernel: what each reads and writes of them; dropout's mask is half an element.
Backward, an added mask passes its gradient on."""


def standard_bytes() -> float:
    """Standard attention: its passes over the scores, and twelve over vectors."""
    passes = sum(_FORWARD.values()) + sum(_BACKWARD.values())
    elements = passes * _TOKENS * _TOKENS + 12 * _TOKENS * _WIDTH
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
        f"standard attention moves {standard / 1e9:.1f} GB here and 40.3 GB there, FlashAttention "
        f"{flash / 1e9:.1f} GB here and 4.4 GB there; scores pass 18 times where products, mask, softmax and "
        "dropout are kernels of their own",
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
