"""Exact attention schedules as tiled loops in torch. What the loops of FlashAttention read and write goes
through an `Sram`, which counts the elements that cross its edge.

Shape letters: H heads, Q queries of a sequence, N entries, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from twofold.kernels.reference.attention import attend_sequence
from twofold.kernels.registry import reference
from twofold.models.cache import CacheLayer, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import QUERY_TILE
from twofold.ops.schedules import (
    KeysOutside,
    LeanAttention,
    QueriesOutside,
    RowSoftmax,
    TwoPassAttention,
    deal_tiles,
)

LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
"""The logarithm of 2 in two parts, the first of which times a small integer is exact (Cody, Waite)."""

LEAST = -1e30
"""What is less is taken for -inf."""


@dataclass(slots=True)
class Sram:
    """The memory on the chip. moved: elements that crossed its edge."""

    moved: int = 0

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, read from behind."""
        self.moved += tensor.numel()
        return tensor

    def store(self, target: torch.Tensor, tensor: torch.Tensor) -> None:
        """Write `tensor` to `target` behind."""
        self.moved += tensor.numel()
        target.copy_(tensor)


State = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of rows: their maxima [H, q, 1], sums of weights [H, q, 1], weighted sums of values [H, q, D]."""


def by_head(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> State:
    """q [Q, H, D], k, v [N, K, D] to [H, Q, D], [H, N, D], [H, N, D] in float32: each head by itself."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(group, dim=1).transpose(0, 1) for x in (k, v))
    return q.float().transpose(0, 1), k, v


def tile_scores(q: torch.Tensor, k: torch.Tensor, heads: Heads, position: int, begin: int) -> torch.Tensor:
    """Scores [H, q, n] of queries from `position` on against keys from `begin` on, which may hide."""
    scores = torch.bmm(q, k.transpose(1, 2)) * heads.scale
    if heads.softcap is not None:
        scores = heads.softcap * torch.tanh(scores / heads.softcap)
    row = torch.arange(position, position + q.shape[1], device=q.device)[:, None]
    column = torch.arange(begin, begin + k.shape[1], device=q.device)
    hidden = column > row
    if heads.window is not None:
        hidden |= column <= row - heads.window
    return scores.masked_fill(hidden, float("-inf"))


def merged(state: State, scores: torch.Tensor, v: torch.Tensor) -> State:
    """The state after the keys that have `scores`. A row that has seen nothing has the maximum -inf and sums
    of 0."""
    maximum = torch.maximum(state[0], scores.amax(-1, keepdim=True))
    origin = maximum.clamp(min=torch.finfo(maximum.dtype).min)  # -inf less itself is no number
    weights = torch.exp(scores - origin)
    decay = torch.exp(state[0] - origin)
    return maximum, state[1] * decay + weights.sum(-1, keepdim=True), state[2] * decay + torch.bmm(weights, v)


def empty_state(like: torch.Tensor, width: int) -> State:
    """The state of rows like [H, q, …] that have seen nothing."""
    shape = (*like.shape[:2], 1)
    return (
        like.new_full(shape, float("-inf")),
        like.new_zeros(shape),
        like.new_zeros((*like.shape[:2], width)),
    )


def keys_outside(
    op: KeysOutside, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads, sram: Sram
) -> torch.Tensor:
    """q [H, Q, D], k, v [H, N, D] to [H, Q, D]: outputs behind the SRAM are whole after each block."""
    queries, entries = q.shape[1], k.shape[1]
    before = entries - queries
    maximum, total, out = empty_state(q, v.shape[2])
    for begin in range(0, entries, op.key_block):
        keys, values = (sram.load(x[:, begin : begin + op.key_block]) for x in (k, v))
        for start in range(max(0, begin - before), queries, op.query_block):
            rows = slice(start, min(start + op.query_block, queries))
            old = tuple(sram.load(x[:, rows]) for x in (maximum, total, out))
            scores = tile_scores(sram.load(q[:, rows]), keys, heads, before + start, begin)
            top, weight, summed = merged((old[0], old[1], old[2] * old[1]), scores, values)
            sram.store(maximum[:, rows], top)
            sram.store(total[:, rows], weight)
            sram.store(out[:, rows], summed / weight)
    return out


def queries_outside(
    op: QueriesOutside, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads, sram: Sram
) -> torch.Tensor:
    """q [H, Q, D], k, v [H, N, D] to [H, Q, D]: an output is scaled as it grows, and divided once."""
    queries, entries = q.shape[1], k.shape[1]
    before = entries - queries
    out = q.new_empty((*q.shape[:2], v.shape[2]))
    logarithms = q.new_empty((*q.shape[:2], 1))
    for start in range(0, queries, op.query_block):
        rows = slice(start, min(start + op.query_block, queries))
        tile = sram.load(q[:, rows])
        state = empty_state(tile, v.shape[2])
        end = before + rows.stop
        for begin in range(0, end, op.key_block):
            block = slice(begin, min(begin + op.key_block, end))
            scores = tile_scores(tile, sram.load(k[:, block]), heads, before + start, begin)
            state = merged(state, scores, sram.load(v[:, block]))
        sram.store(out[:, rows], state[2] / state[1])
        sram.store(logarithms[:, rows], state[0] + state[1].log())
    return out


@reference(KeysOutside)
def attend_keys_outside(
    op: KeysOutside, q: torch.Tensor, cache: CacheLayer, step: StepInput, *new: torch.Tensor
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim]."""
    return _by_sequence(op, keys_outside, q, cache, step, *new)


@reference(QueriesOutside)
def attend_queries_outside(
    op: QueriesOutside, q: torch.Tensor, cache: CacheLayer, step: StepInput, *new: torch.Tensor
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim]."""
    return _by_sequence(op, queries_outside, q, cache, step, *new)


def _by_sequence(
    op: KeysOutside | QueriesOutside,
    attend: Any,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    *new: torch.Tensor,
) -> torch.Tensor:
    out = q.new_empty(q.shape[0], op.heads * op.v_dim)
    start = 0
    for seq, span in enumerate(step.spans):
        end = start + span.queries
        k, v = cache.read(step, seq, *new)
        found = attend(op, *by_head(q[start:end], k, v), cache.heads, Sram())
        out[start:end] = found.transpose(0, 1).flatten(1).to(q.dtype)
        start = end
    return out


# --- decode, dealt out ---


@reference(LeanAttention)
def lean_attention(
    op: LeanAttention, q: torch.Tensor, cache: CacheLayer, step: StepInput, *new: torch.Tensor
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim]: sequences of one query by tiles, others as plain attention."""
    out = q.new_empty(q.shape[0], op.heads * op.v_dim)
    singles: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    start = 0
    for seq, span in enumerate(step.spans):
        k, v = cache.read(step, seq, *new)
        if span.queries == 1:
            singles.append((start, k.float(), v.float()))
        else:
            rows = slice(start, start + span.queries)
            out[rows] = attend_sequence(q[rows], k, v, cache.heads)
        start += span.queries
    for (row, _, _), answer in zip(singles, lean_singles(op, q, singles, cache.heads), strict=True):
        out[row] = answer.flatten().to(q.dtype)
    return out


def lean_singles(
    op: LeanAttention, q: torch.Tensor, singles: list[tuple[int, torch.Tensor, torch.Tensor]], heads: Heads
) -> list[torch.Tensor]:
    """For each (row of q [T, H, D], its k, v [N, K, D]): [H, v_dim]. Workers leave states, which are merged
    in the order of the keys."""
    group = heads.heads // heads.kv_heads
    outputs = [(row, k, v, head) for row, k, v in singles for head in range(heads.kv_heads)]
    tiles = [-(-k.shape[0] // op.tile) for _, k, _, _ in outputs]
    states: list[State | None] = [None] * len(outputs)
    for worker in deal_tiles(tiles, op.workers):
        for output, first, last in worker:
            row, k, v, head = outputs[output]
            rows = q[row, head * group : (head + 1) * group].float()[:, None]  # [G, 1, D]
            state = empty_state(rows, v.shape[2])
            for begin in range(first * op.tile, min(last * op.tile, k.shape[0]), op.tile):
                part = slice(begin, min(begin + op.tile, k.shape[0]))
                keys, values = (x[part, head].expand(group, -1, -1) for x in (k, v))
                state = merged(state, tile_scores(rows, keys, heads, k.shape[0] - 1, begin), values)
            before = states[output]
            states[output] = state if before is None else joined(before, state)
    answers = []
    for found in states:
        assert found is not None
        answers.append((found[2] / found[1]).flatten())
    kv = heads.kv_heads
    return [torch.cat(answers[i : i + kv]) for i in range(0, len(answers), kv)]


def joined(a: State, b: State) -> State:
    """The state after the keys of both `a` and `b`: associative, so that work may be cut anywhere."""
    maximum = torch.maximum(a[0], b[0])
    origin = maximum.clamp(min=torch.finfo(maximum.dtype).min)
    x, y = torch.exp(a[0] - origin), torch.exp(b[0] - origin)
    return maximum, a[1] * x + b[1] * y, a[2] * x + b[2] * y


# --- softmax in two passes ---


@reference(TwoPassAttention)
def two_pass_attention(
    op: TwoPassAttention, q: torch.Tensor, cache: CacheLayer, step: StepInput, *new: torch.Tensor
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim]."""
    out = q.new_empty(q.shape[0], op.heads * op.v_dim)
    start = 0
    for seq, span in enumerate(step.spans):
        end = start + span.queries
        k, v = cache.read(step, seq, *new)
        queries, keys, values = by_head(q[start:end], k, v)
        parts = []
        for first in range(0, span.queries, QUERY_TILE):
            position = span.keys - span.queries + first
            tile = queries[:, first : first + QUERY_TILE]
            seen = position + tile.shape[1]
            scores = tile_scores(tile, keys[:, :seen], cache.heads, position, 0)
            parts.append(torch.bmm(two_pass_softmax(scores), values[:, :seen]))
        out[start:end] = torch.cat(parts, 1).transpose(0, 1).flatten(1).to(q.dtype)
        start = end
    return out


@reference(RowSoftmax)
def row_softmax(op: RowSoftmax, x: torch.Tensor) -> torch.Tensor:
    """x [rows, columns] to the same shape."""
    return two_pass_softmax(x) if op.passes == 2 else x.softmax(-1)


def two_pass_softmax(x: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension without its maximum: one pass adds up exponentials as mantissa times
    power of two, one divides by the sum. -inf is allowed, but not everywhere in a row."""
    mantissa, exponent = split_exp(x)
    largest = exponent.amax(-1, keepdim=True)  # of the running sum: exponents alone are compared, as integers
    total = (mantissa * torch.exp2(exponent - largest)).sum(-1, keepdim=True)
    mantissa, exponent = split_exp(x)
    return mantissa / total * torch.exp2(exponent - largest)


def split_exp(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """exp(x) as (mantissa, exponent): mantissa · 2^exponent, the mantissa between √½ and √2, 0 for -inf."""
    finite = x.clamp(min=LEAST)
    exponent = torch.round(finite * LOG2_E)
    rest = finite - exponent * LN2_HIGH - exponent * LN2_LOW
    return torch.where(x >= LEAST, torch.exp(rest), 0.0), exponent
