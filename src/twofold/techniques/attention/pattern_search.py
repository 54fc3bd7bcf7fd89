"""Finding the pattern of each head: of those that cost the same, the one that keeps most of its attention on
a text (arXiv:2407.02490, algorithm 1; candidates and criterion of its code)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from twofold.devices.base import Device
from twofold.models.cache import Heads
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.techniques.attention.sparse_patterns import GROUP, HeadPattern, SparsePlan, capped, choose_keys
from twofold.techniques.attention.watching import watch

CANDIDATES = (
    ("a-shape", 100, 800),
    ("vertical-slash", 30, 800),
    ("vertical-slash", 100, 750),
    ("vertical-slash", 500, 700),
    ("vertical-slash", 3500, 100),
    ("block-sparse", 100, 800),
)
"""What is compared: kind, columns and diagonals. Only the share of the columns counts."""

TEXT_OVER_KEYS = 6
"""Tokens of the text per key that a tile reads: 30,000 over the keys of 1,024 + 4,096 (section 4.1)."""

TILES = 8
"""Tiles of a text that are judged, evenly spread."""

MakePlan = Callable[[tuple[HeadPattern, ...]], SparsePlan]


def search_patterns(
    model: Transformer, device: Device, token_ids: Sequence[int], target: HeadPattern, make_plan: MakePlan
) -> dict[int, tuple[HeadPattern, ...]]:
    """For each layer without a window, a pattern per head with as many keys as `target`, by how `model`
    attends on `token_ids`. ValueError where these are too few to tell patterns apart."""
    if len(token_ids) < 2 * TEXT_OVER_KEYS:
        raise ValueError(
            f"technique minference: calibration needs {2 * TEXT_OVER_KEYS} tokens, not {len(token_ids)}"
        )
    found: dict[int, tuple[HeadPattern, ...]] = {}

    def judge(layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
        attention = model.layers[layer].attention
        assert attention is not None
        heads = attention.cache.heads
        if heads.window is None and layer not in found:  # of a text in pieces, the first is judged
            best = best_candidates(q, k, heads, target.keys, make_plan)
            found[layer] = tuple(sized(CANDIDATES[i], target.keys) for i in best)

    watch(model, device, token_ids, judge)
    return found


def sized(candidate: tuple[str, int, int], keys: int) -> HeadPattern:
    """A candidate with `keys` keys in all."""
    kind, vertical, slash = candidate
    columns = min(max(1, round(keys * vertical / (vertical + slash))), keys - 1)
    return HeadPattern(kind, columns, keys - columns)


def best_candidates(
    q: torch.Tensor, k: torch.Tensor, heads: Heads, keys: int, make_plan: MakePlan
) -> list[int]:
    """For q [T, H, D], k [T, K, D] of one text: per head the number of the candidate with the best recall,
    where all read `keys` keys, or as many in proportion where the text is short."""
    tokens = q.shape[0]
    recalls = torch.stack(
        [recall(q, k, heads, plan) for plan in scaled_plans(tokens, heads.heads, keys, make_plan)]
    )
    return [int(i) for i in recalls.argmax(0)]


def scaled_plans(tokens: int, heads: int, keys: int, make_plan: MakePlan) -> list[SparsePlan]:
    """A plan of each candidate for a text of so many tokens: all sizes shrink alike."""
    shrink = min(1.0, tokens / (TEXT_OVER_KEYS * keys))
    plans = []
    for candidate in CANDIDATES:
        pattern = sized(candidate, max(2, round(keys * shrink)))
        plan = make_plan((pattern,) * heads)
        plans.append(
            replace(
                plan,
                tile=max(1, round(plan.tile * shrink / GROUP)) * GROUP,
                last_q=max(1, min(tokens, round(plan.last_q * shrink))),
                first=min(round(plan.first * shrink), pattern.vertical),
                local=max(1, min(round(plan.local * shrink), pattern.slash)),
            )
        )
    return plans


def recall(q: torch.Tensor, k: torch.Tensor, heads: Heads, plan: SparsePlan) -> torch.Tensor:
    """Share of its attention that each head keeps under `plan` [H], over queries that see more than a tile
    may read. q [T, H, D], k [T, K, D]."""
    tokens, group = q.shape[0], heads.heads // heads.kv_heads
    span = Span(tokens, tokens)
    chosen = choose_keys(q, k, heads, plan)
    beyond = [i for i, (start, _) in enumerate(plan.tiles(span)) if start >= plan.keys]
    judged = beyond[:: max(1, len(beyond) // TILES)]
    tiles = list(plan.tiles(span))
    kept = q.new_zeros(heads.heads)
    for i in judged:
        start, end = tiles[i]
        position = torch.arange(start, end, device=q.device)[:, None]
        hidden = torch.arange(end, device=q.device) > position
        keys = k[:end].repeat_interleave(group, dim=1).permute(1, 2, 0)
        scores = capped(torch.bmm(q[start:end].transpose(0, 1), keys), heads)
        weights = scores.masked_fill(hidden, float("-inf")).float().softmax(-1).mean(1)
        kept += torch.stack([weights[head, chosen[head][i]].sum() for head in range(heads.heads)])
    return kept / max(1, len(judged))
