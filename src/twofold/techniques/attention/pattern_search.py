"""Finding the pattern of each head: of those that cost the same, the one that keeps most of its attention on
a text (arXiv:2407.02490, algorithm 1; candidates and criterion of its code)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from twofold.devices.base import Device
from twofold.models.attending import Attending
from twofold.models.cache import CacheLayer, Heads
from twofold.models.layer_pass import LayerPass
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Attention, Span
from twofold.techniques.attention.sparse_patterns import GROUP, HeadPattern, SparsePlan, capped, choose_keys

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


@torch.inference_mode()
def search_patterns(
    model: Transformer, device: Device, token_ids: Sequence[int], target: HeadPattern, make_plan: MakePlan
) -> dict[int, tuple[HeadPattern, ...]]:
    """For each layer without a window, a pattern per head with as many keys as `target`, by how `model`
    attends on `token_ids`. ValueError where these are too few to tell patterns apart."""
    tokens = len(token_ids)
    if tokens < 2 * TEXT_OVER_KEYS:
        raise ValueError(f"technique minference: calibration needs {2 * TEXT_OVER_KEYS} tokens, not {tokens}")
    where = model.norm.weight.device if model.norm.weight is not None else None
    ids = torch.tensor(list(token_ids), device=where)
    step = StepInput([Span(tokens, tokens)], tokens, 0, ids, torch.arange(tokens, device=where))
    passing = LayerPass(model, model.spec.num_layers)
    found: dict[int, tuple[HeadPattern, ...]] = {}
    for layer in passing.layers:
        if layer.attention is not None and layer.attention.cache.heads.window is None:
            layer.attention.cache.attending = Watch(layer.index, found, target, make_plan)
    device.begin_step()
    passing.run(passing.begin(step, device), device)
    passing.end()
    device.end_step()
    return found


class Watch(Attending):
    """Plain attention that judges patterns on what passes."""

    def __init__(
        self,
        layer: int,
        found: dict[int, tuple[HeadPattern, ...]],
        target: HeadPattern,
        make_plan: MakePlan,
    ) -> None:
        self.layer, self.found, self.target, self.make_plan = layer, found, target, make_plan

    def attend(
        self,
        device: Device,
        cache: CacheLayer,
        step: StepInput,
        plain: Attention,
        q: torch.Tensor | None,
        *new: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """As plain attention. A longer text than a pass takes at once is judged by what comes first."""
        assert q is not None
        if self.layer not in self.found:
            k, _ = cache.read(step, 0)
            best = best_candidates(q, k, cache.heads, self.target.keys, self.make_plan)
            self.found[self.layer] = tuple(sized(CANDIDATES[i], self.target.keys) for i in best)
        return super().attend(device, cache, step, plain, q, *new)


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
