"""GGUF blocks with random or extreme codes and sane scales."""

from __future__ import annotations

import torch

from twofold.ops.formats import get_format

# Byte offsets of the fp16 scale and, where there is one, minimum in a block.
_HALVES = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
}  # fmt: skip


def random_blocks(fmt: str, rows: int, cols: int, *, seed: int) -> torch.Tensor:
    """[rows, cols] stored as `fmt`, flat uint8: codes of all values, scales about 1e-2."""
    generator = torch.Generator().manual_seed(seed)
    blocks = _blocks(fmt, rows, cols)
    blocks.random_(0, 256, generator=generator)
    for at in _HALVES[fmt]:
        scale = torch.rand(len(blocks), 1, generator=generator) * 0.02 - 0.005
        blocks[:, at : at + 2] = scale.half().view(torch.uint8)
    return blocks.flatten()


def worst_blocks(fmt: str, rows: int, cols: int) -> torch.Tensor:
    """[rows, cols] stored as `fmt` in which every code and every inner scale is the largest there is, or for
    signed 8-bit codes the most negative."""
    blocks = _blocks(fmt, rows, cols)
    blocks.fill_(0xFF)
    if fmt == "q8_0":
        blocks[:, 2:] = 0x80
    if fmt == "q6_k":
        blocks[:, 192:208] = 0x80
    for at in _HALVES[fmt]:
        value = 0.01 if at in (0, 208) else 0.003
        blocks[:, at : at + 2] = torch.tensor([value]).half().view(torch.uint8)
    return blocks.flatten()


def _blocks(fmt: str, rows: int, cols: int) -> torch.Tensor:
    layout = get_format(fmt)
    return torch.empty(rows * cols // layout.block, layout.row_bytes(layout.block), dtype=torch.uint8)
