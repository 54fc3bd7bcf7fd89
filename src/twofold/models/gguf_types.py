"""ggml block formats: how packed bytes widen to float32.

Every function takes `blocks`, a [num_blocks, block_bytes] uint8 view, and returns [num_blocks, block]
float32, in the same order of operations as ggml's reference so that results agree to the last bit. The
layouts are those of ggml's `block_*` structs (ggml-common.h); "lo" and "hi" are the two 4-bit halves of a
byte.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twofold.ops.formats import get_format


def view_as(data: Tensor, dtype: torch.dtype) -> Tensor:
    """`data` (uint8, last dimension contiguous) reinterpreted as `dtype`; copied only where its bytes are not
    aligned.
    """
    size = dtype.itemsize
    aligned = data.storage_offset() % size == 0 and all(s % size == 0 for s in data.stride()[:-1])
    return (data if aligned else data.contiguous().clone()).view(dtype)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at byte `at` of every block, [num_blocks, 1] float32."""
    return blocks[:, at : at + 2].clone().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """Low halves of all bytes followed by the high halves: [..., n] -> [..., 2n]."""
    return torch.cat([packed & 0x0F, packed >> 4], dim=-1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """Bits of 4 little-endian bytes, each moved to bit 4: [n, 4] -> [n, 32]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (((packed.unsqueeze(-1) >> shifts) & 1) << 4).flatten(1)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks, 0)


def _q4_0(blocks: Tensor) -> Tensor:
    q = _nibbles(blocks[:, 2:]).view(torch.int8) - 8
    return q.float() * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:]).float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    q = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])).view(torch.int8) - 16
    return q.float() * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return q.float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _k_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The eight 6-bit scales and minima that Q4_K and Q5_K pack in 12 bytes: two [n, 8] float32."""
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat([a & 0x3F, (c & 0x0F) | ((a >> 2) & 0x30)], dim=-1)
    minima = torch.cat([b & 0x3F, (c >> 4) | ((b >> 2) & 0x30)], dim=-1)
    return scales.float(), minima.float()


def _k_affine(blocks: Tensor, q: Tensor) -> Tensor:
    """Values of Q4_K/Q5_K super-blocks from their header and `q` [n, 8, 32]: (d·scale)·q - (dmin·min)."""
    scales, minima = _k_scales(blocks[:, 4:16])
    scales, minima = scales * _half(blocks, 0), minima * _half(blocks, 2)
    return q.float().mul_(scales.unsqueeze(-1)).sub_(minima.unsqueeze(-1)).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _k_affine(blocks, _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).view(-1, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8, device=blocks.device).view(1, 8, 1)
    high = (blocks[:, 16:48].unsqueeze(1) >> shifts) & 1
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).view(-1, 8, 32)
    return _k_affine(blocks, low | (high << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    # Two halves of 128 weights; in each, 64 bytes of low nibbles and 32 bytes that hold four 2-bit high
    # parts.
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=blocks.device).view(1, 1, 4, 1)
    high = ((blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3).flatten(2)
    q = (low | (high << 4)).view(torch.int8) - 32
    scales = blocks[:, 192:208].view(torch.int8).float() * _half(blocks, 208)
    return q.reshape(-1, 16, 16).float().mul_(scales.unsqueeze(-1)).flatten(1)


_BLOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}
_FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# Blocks widened at a time: intermediate results of 64 Ki weights stay in a core's cache.
_CHUNK_WEIGHTS = 1 << 16


def _widen_blocks(name: str, data: Tensor, shape: tuple[int, ...]) -> Tensor:
    fmt = get_format(name)
    blocks = data.view(-1, fmt.row_bytes(fmt.block))
    out = torch.empty(blocks.shape[0], fmt.block, device=data.device)
    step = max(1, _CHUNK_WEIGHTS // fmt.block)
    for start in range(0, blocks.shape[0], step):
        out[start : start + step] = _BLOCKS[name](blocks[start : start + step])
    return out.view(shape)


def widener(name: str) -> Callable[[Tensor, tuple[int, ...]], Tensor]:
    """The function (packed flat uint8, logical shape) -> float32 of the format called `name`.

    Raises ValueError for a format that a checkpoint cannot hold.
    """
    if name in _FLOATS:
        dtype = _FLOATS[name]
        return lambda data, shape: view_as(data, dtype).to(torch.float32, copy=True).view(shape)
    if name in _BLOCKS:
        return lambda data, shape: _widen_blocks(name, data, shape)
    raise ValueError(f"no checkpoint stores {name!r}; allowed: {', '.join([*_FLOATS, *_BLOCKS])}")
