"""The cache layer of attention over signs: keys as packed bits, values in 16 bits.

Shape letters: T new tokens, N visible entries, H heads, K KV heads, D head dimension, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from twofold.kernels.cpu import extension
from twofold.kernels.cpu.cache import MAX_DIM, by_token
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu, reference
from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.ops.signs import HammingAttention, SignWrite
from twofold.techniques.attention.had_layout import HadLayout
from twofold.techniques.attention.hamming import SignMap, attend_signs, signs_of

VALUE_BYTES = 2
"""Of a stored element of a value: float16, or bfloat16 in models of that."""

PACK_FLOP = 2
"""Elementwise operations to make an element of a key a bit: compare, and shift into place."""


@dataclass(frozen=True, slots=True)
class HeadCodes:
    """What a layer's heads learned: how queries and keys become signs, and scale [H], float32, by which an
    inner product of signs is a score."""

    q: SignMap
    k: SignMap
    scale: torch.Tensor

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Those that there are, by name."""
        found = {
            "q_map": self.q.map,
            "q_threshold": self.q.threshold,
            "k_map": self.k.map,
            "k_threshold": self.k.threshold,
            "scale": self.scale,
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> Self:
        """From tensors as `tensors` names them."""
        q, k = (SignMap(tensors.get(f"{side}_map"), tensors.get(f"{side}_threshold")) for side in "qk")
        return cls(q, k, tensors["scale"])


class HadCache(CacheLayer):
    """Signs of keys and values of a layer.

    Tensors: codes uint8 [B, K, b, D / 8] of b tokens a block, the sign of element d in bit d % 8 of byte
    d // 8; values float16 (bfloat16 in models of that) [B, K, b, v_dim]. learned: what the layer's heads
    learned, whose tensors are its parameters; None on a modelled device. turned: whether keys and queries
    are multiplied by a matrix of their head before.
    """

    def __init__(
        self, heads: Heads, block_size: int, layout: HadLayout, learned: HeadCodes | None, *, turned: bool
    ) -> None:
        super().__init__(heads, block_size)
        self.layout = layout
        self.learned = learned
        self.turned = turned
        self.stored_as = "had"
        self._handle: Any = None

    # --- counting

    @property
    def _value_bytes(self) -> int:
        """Bytes of the values of an entry of one KV head."""
        return self.heads.v_dim * VALUE_BYTES

    @property
    def _code_bytes(self) -> int:
        """Bytes of the signs of one vector."""
        return self.heads.head_dim // 8

    def block_bytes(self) -> int:
        """Codes and values of one block."""
        return self.block_size * self.heads.kv_heads * (self._code_bytes + self._value_bytes)

    def parameter_bytes(self) -> int:
        """Scales and, where vectors are turned, matrices and thresholds of all heads: float32."""
        h = self.heads
        turns = (h.heads + h.kv_heads) * h.head_dim * (h.head_dim + 1) if self.turned else 0
        return 4 * (h.heads + turns)

    def read_bytes(self, step: StepInput) -> int:
        """The codes of all visible entries, and the values of those that are kept."""
        h = self.heads
        found = self.layout.compared(step.spans, h.window, h.heads // h.kv_heads)
        return h.kv_heads * (found.entries * self._code_bytes + found.values * self._value_bytes)

    def write_bytes(self, step: StepInput) -> int:
        """One entry per token."""
        return step.num_tokens * self.heads.kv_heads * (self._code_bytes + self._value_bytes)

    def pack_flop(self, step: StepInput) -> int:
        """PACK_FLOP per element of a key."""
        return step.num_tokens * self.heads.kv_heads * self.heads.head_dim * PACK_FLOP

    def ops(self, step: StepInput) -> tuple[SignWrite, HammingAttention]:
        """The ops that store signs and attend over them."""
        h, tokens = self.heads, step.num_tokens
        found = self.layout.compared(step.spans, h.window, h.heads // h.kv_heads)
        per_head = 2 * tokens * h.head_dim * h.head_dim if self.turned else 0
        write = SignWrite(
            tokens,
            h.stored_width,
            self.write_bytes(step),
            h.act_bytes,
            self.pack_flop(step),
            format=self.stored_as,
            map_flop=h.kv_heads * per_head,
        )
        attention = HammingAttention(
            step.totals(h.window),
            h.heads,
            h.kv_heads,
            h.head_dim,
            h.v_dim,
            self.read_bytes(step),
            h.compute,
            h.act_bytes,
            format=self.stored_as,
            seen=found.seen,
            kept=found.kept,
            map_flop=h.heads * per_head,
        )
        return write, attention

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The tensors named above, zero; what was learned goes to `where`."""
        h = self.heads
        assert self.learned is not None, "a real device needs scales, which calibration or a file gives"
        values = torch.bfloat16 if h.compute == "bf16" else torch.float16
        shape = (size.num_blocks, h.kv_heads, size.block_size)
        self.tensors = {
            "codes": reserve((*shape, self._code_bytes), torch.uint8, where),
            "values": reserve((*shape, h.v_dim), values, where),
        }
        self.parameters = {name: t.to(where).contiguous() for name, t in self.learned.tensors.items()}
        self.learned = HeadCodes.of(self.parameters)
        self._handle = None

    def _places(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return slots // self.block_size, slots % self.block_size

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Pack the signs of k [T, K, D] and scatter them and v to `step.slots`."""
        assert step.slots is not None
        assert self.learned is not None
        block, at = self._places(step.slots)
        values = self.tensors["values"]
        top = torch.finfo(values.dtype).max
        self.tensors["codes"][block, :, at] = self.learned.k.codes(k)
        values[block, :, at] = v.clamp(-top, top).to(values.dtype)

    def stored(self, step: StepInput, seq: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes [N, K, D / 8] and values [N, K, v_dim] visible to sequence `seq`, as they are stored."""
        block, at = self._places(step.tables[seq])
        return self.tensors["codes"][block, :, at], self.tensors["values"][block, :, at]

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The signs of the keys, -1.0 or 1.0, and the values, float32 [N, K, D]."""
        codes, values = self.stored(step, seq)
        return signs_of(codes), values.float()

    # --- native kernels

    def attend_native(
        self, ctx: CpuContext, op: Attention, q: torch.Tensor, step: StepInput, *new: torch.Tensor
    ) -> Any:
        """q [T, H, D] to [T, H · v_dim]."""
        spans = step.spans_native() if by_token(q) and self._native() else None
        if spans is None:
            return NotImplemented
        h, top = self.heads, self.layout.top
        out = ctx.empty(q.shape[0], h.heads * h.v_dim)
        ctx.native.hamming_attention(
            ctx.stream,
            self._native(),
            spans,
            self._signs("q"),
            self.parameters["scale"].data_ptr(),
            q.data_ptr(),
            q.stride(0),
            out.data_ptr(),
            h.heads,
            h.softcap or 0.0,
            h.window or 0,
            top.n,
            top.context,
        )
        return out

    def write_native(self, ctx: CpuContext, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> Any:
        """Store k, v [T, K, D] at `step.slots`."""
        if not (by_token(k) and by_token(v) and self._native()):
            return NotImplemented
        assert step.slots is not None
        new = k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0)
        slots = step.slots.data_ptr()
        ctx.native.hamming_write(ctx.stream, self._native(), self._signs("k"), *new, slots, step.num_tokens)
        return None

    def _signs(self, side: str) -> tuple[int, int]:
        """Addresses of the matrices and thresholds of "q" or "k", 0 for none."""
        found = (self.parameters.get(f"{side}_{part}") for part in ("map", "threshold"))
        map_at, threshold_at = (0 if t is None else t.data_ptr() for t in found)
        return map_at, threshold_at

    def _native(self) -> Any:
        """The native kernels' view of the storage, made when first asked for; None where they cannot take
        it."""
        h = self.heads
        fits = h.compute == "fp32" and max(h.head_dim, h.v_dim) <= MAX_DIM and h.v_dim % 8 == 0
        if self._handle is None and fits:
            addresses = (self.tensors[name].data_ptr() for name in ("codes", "values"))
            self._handle = extension().HammingCache(
                *addresses, h.kv_heads, self.block_size, h.head_dim, h.v_dim
            )
        return self._handle


@reference(SignWrite)
def sign_write(op: SignWrite, cache: HadCache, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
    """Let the cache layer store the new entries."""
    del op
    cache.write(step, k, v)


@reference(HammingAttention)
def hamming_attention(
    op: HammingAttention, q: torch.Tensor, cache: HadCache, step: StepInput
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim], sequence by sequence."""
    learned = cache.learned
    assert learned is not None
    codes = learned.q.codes(q)
    out = q.new_empty(q.shape[0], op.heads * op.v_dim)
    start = 0
    for seq, span in enumerate(step.spans):
        end = start + span.queries
        k, v = cache.stored(step, seq)
        found = attend_signs(codes[start:end], k, v, cache.heads, learned.scale, cache.layout.top)
        out[start:end] = found.to(out.dtype)
        start = end
    return out


@cpu(SignWrite)
def sign_write_native(
    ctx: CpuContext, op: SignWrite, cache: HadCache, step: StepInput, k: torch.Tensor, v: torch.Tensor
) -> Any:
    """Store k, v [T, K, D]."""
    return cache.write_native(ctx, step, k, v)


@cpu(HammingAttention)
def hamming_attention_native(
    ctx: CpuContext, op: HammingAttention, q: torch.Tensor, cache: HadCache, step: StepInput
) -> Any:
    """q [T, H, D] to [T, H · v_dim]."""
    return cache.attend_native(ctx, op, q, step)
