"""MInference: long prompts attend to few keys. Each head has one of three sparse patterns, found beforehand;
the keys that the pattern selects in a prompt are estimated as the prompt is read, and all others are skipped.

Source: "MInference 1.0: Accelerating Pre-filling for Long-Context LLMs via Dynamic Sparse Attention",
arXiv:2407.02490, section 3, algorithms 1 to 3; sizes, what is always read and `ratio` as in its code.
Differs: sizes count the keys that a tile of queries reads, not diagonals (a single diagonal costs a whole
tile of keys), so that all patterns cost the same by construction, where the source adapts sizes until they
do; a prompt that is read in pieces gets an index for each piece, from its last queries; patterns are searched
on a calibration text, with sizes reduced in proportion where it is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from twofold.devices.base import Device
from twofold.errors import nearest
from twofold.models.attending import Attending
from twofold.models.cache import CacheLayer, Heads
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Attention, total_spans
from twofold.ops.sparse_attention import EstimateAttention, SparseAttention
from twofold.techniques.attention import sparse_native  # noqa: F401  (fills the registry of kernels)
from twofold.techniques.attention.pattern_search import search_patterns
from twofold.techniques.attention.sparse_patterns import GROUP, KINDS, HeadPattern, SparsePlan
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.requirements import require_global_layer

_PAPER = "arXiv:2407.02490"
_TABLE = "its code's table of latencies, experiments/README.md (the figures behind figure 1b)"
_MODEL, _HARDWARE = "LLaMA-3-8B-Instruct-262k", "A100-80GB"

FIRST, LOCAL = 30, 100
"""Columns and diagonals that are always read, in the source's code."""


def _speedup(key: str, context: str, ratio: float) -> Claim:
    return Claim(
        f"prefill-{key}",
        f"time to the first token, full attention over MInference ({context} tokens)",
        (ratio, ratio),
        "×",
        "FlashAttention-2",
        _MODEL,
        _HARDWARE,
        f"{_PAPER}, {_TABLE}",
        f"minference:prefill_{key}",
    )


@dataclass(frozen=True)
class MInference(Technique):
    """Tiles of `block_size` queries read at most `vertical_size` keys as columns and `slash_size` along
    diagonals, or as many in blocks.

    ratio: factor on both sizes, whose defaults are for prompts of a hundred thousand tokens. last_q: last
    queries of each step, from which the keys are estimated. pattern: "search" finds one per head on
    calibration text; any other is used for all heads. Steps with fewer queries than last_q, and contexts no
    longer than both sizes, attend to everything.
    """

    vertical_size: int = 1000
    slash_size: int = 6096
    ratio: float = 1.0
    last_q: int = 64
    block_size: int = 64
    pattern: str = "search"

    info: ClassVar[Info] = Info(
        name="minference",
        title=("MInference 1.0: Accelerating Pre-filling for Long-Context LLMs via Dynamic Sparse Attention"),
        source=_PAPER,
        summary="prompts attend only to the columns, diagonals or blocks that their last queries point to",
        seams=("attention",),
        lossless=False,
        provides=("attention-method",),
        excludes=("attention-method",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _speedup("100k", "100,000", 24.88319 / 13.98508),
        _speedup("300k", "300,000", 169.62441 / 41.09374),
        _speedup("500k", "500,000", 456.78353 / 66.27691),
        _speedup("1m", "1,000,000", 1765.56387 / 179.12031),
        Claim(
            "full-1m",
            "time to the first token with full attention (1,000,000 tokens)",
            (1800.0, 1800.0),
            "s",
            "none",
            "an 8B model",
            _HARDWARE,
            f"{_PAPER}, abstract (its table: 1,766 s)",
            "minference:full_1m",
        ),
        Claim(
            "accuracy",
            "average score on InfiniteBench relative to full attention",
            (1.0, 1.0),
            "×",
            "full attention",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}, table 2",
            why_not="needs the model's weights and ten question sets, which are not available offline",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique minference"
        for name in ("vertical_size", "slash_size", "last_q"):
            if getattr(self, name) < 1:
                raise ValueError(f"{where}: {name} must be at least 1, not {getattr(self, name)}")
        if not self.ratio > 0:
            raise ValueError(f"{where}: ratio must be positive, not {self.ratio}")
        if self.block_size < GROUP or self.block_size % GROUP:
            raise ValueError(
                f"{where}: block_size must be a multiple of {GROUP}, not {self.block_size}; "
                f"the nearest is {max(GROUP, round(self.block_size / GROUP) * GROUP)}"
            )
        if self.block_size > MOST_QUERIES:
            raise ValueError(f"{where}: block_size must be at most {MOST_QUERIES}, not {self.block_size}")
        allowed = ("search", *KINDS)
        if self.pattern not in allowed:
            raise ValueError(f"{where}: unknown pattern {self.pattern!r}; {nearest(self.pattern, allowed)}")
        if self.target.keys < self.block_size:
            raise ValueError(
                f"{where}: vertical_size and slash_size times ratio are {self.target.keys} keys, less than "
                f"the {self.block_size} of a tile's own; raise ratio to at least "
                f"{self.block_size / (self.vertical_size + self.slash_size):.3g}"
            )

    def check(self, spec: ModelSpec) -> None:
        """Some layer must attend to the whole prompt, by keys and values."""
        require_global_layer("minference", spec)

    @property
    def target(self) -> HeadPattern:
        """The source's usual pattern, in the sizes asked for: what every head's pattern costs."""
        kind = "vertical-slash" if self.pattern == "search" else self.pattern
        sizes = (max(1, round(self.ratio * size)) for size in (self.vertical_size, self.slash_size))
        return HeadPattern(kind, *sizes)

    @property
    def needs_calibration(self) -> bool:
        """Whether the heads' patterns are still to be found."""
        return self.pattern == "search" and self.calibration is None

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with the pattern of each head that keeps most of its attention on `token_ids`."""
        found = search_patterns(model, device, token_ids, self.target, self.sparse_plan)
        return self.with_calibration(found)

    def sparse_plan(self, patterns: tuple[HeadPattern, ...]) -> SparsePlan:
        """How heads of those patterns attend."""
        target = self.target
        return SparsePlan(
            patterns,
            self.block_size,
            self.last_q,
            min(FIRST, target.vertical),
            min(LOCAL, target.slash),
        )

    def attending_scheme(self) -> SparseScheme:
        """Sparse attention of prompts, with counters of its own."""
        return SparseScheme(self)


MOST_QUERIES = 128
"""Queries of a tile that native kernels take."""


class SparseScheme:
    """All layers without a window read prompts sparsely. counters: query-key pairs of prompts' heads that
    were computed and skipped, and scores that the estimates took."""

    def __init__(self, technique: MInference) -> None:
        self.technique = technique
        self.counters = {"pairs_computed": 0, "pairs_skipped": 0, "scores_estimated": 0}

    def attending(self, heads: Heads, layer: int) -> SparsePrefill | None:
        """Sparse prefill, but for layers with a window."""
        if heads.window is not None:
            return None
        found: dict[int, tuple[HeadPattern, ...]] | None = self.technique.calibration
        patterns = (self.technique.target,) * heads.heads if found is None else found[layer]
        return SparsePrefill(self.technique.sparse_plan(patterns), self.counters)


class SparsePrefill(Attending):
    """Two ops for a step that reads a long prompt: one makes an index, one attends by it."""

    def __init__(self, plan: SparsePlan, counters: dict[str, int]) -> None:
        self.plan = plan
        self.counters = counters

    @property
    def cost_key(self) -> object:
        """Layers whose heads have the same patterns."""
        return SparsePrefill, self.plan

    def is_one_op(self, num_tokens: int) -> bool:
        """True of steps too short to estimate anything from."""
        return num_tokens < self.plan.last_q

    def attend(
        self,
        device: Device,
        cache: CacheLayer,
        step: StepInput,
        plain: Attention,
        q: torch.Tensor | None,
        *new: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """q [T, H, D] to [T, H · v_dim]."""
        spans = [span for span in step.spans if self.plan.is_sparse(span)]
        if not spans:
            return super().attend(device, cache, step, plain, q, *new)
        dense = total_spans(spans)
        scored = sum(self.plan.scored(span) for span in spans)
        share = plain.head_dim / (plain.head_dim + plain.v_dim) * dense.keys / plain.totals.keys
        estimate = EstimateAttention(
            dense._replace(pairs=scored // plain.heads, queries=self.plan.last_q * len(spans)),
            plain.heads,
            plain.kv_heads,
            plain.head_dim,
            0,
            round(plain.cache_bytes * share),
            plain.compute,
            plain.act_bytes,
            round(plain.widen_flop * share),
            format=plain.format,
        )
        index: Any = device.execute(estimate, q, cache, step, self.plan, *new)
        if index is None:  # nothing is computed: tiles read what they may
            pairs = plain.heads * sum(self.plan.most_pairs(span) for span in spans)
            entries = plain.kv_heads * sum(min(s.keys, self.plan.keys + s.queries) for s in spans)
        else:
            pairs, entries = index.pairs, index.entries
        skipped = dense.pairs * plain.heads - pairs
        for name, value in zip(self.counters, (pairs, skipped, scored), strict=True):
            self.counters[name] += value
        read = 1 - (dense.keys - entries / plain.kv_heads) / plain.totals.keys
        op = SparseAttention(
            plain.totals._replace(
                pairs=plain.totals.pairs - skipped // plain.heads,
                max_keys=min(plain.totals.max_keys, self.plan.keys),
            ),
            plain.heads,
            plain.kv_heads,
            plain.head_dim,
            plain.v_dim,
            round(plain.cache_bytes * read),
            plain.compute,
            plain.act_bytes,
            round(plain.widen_flop * read),
            format=plain.format,
        )
        out: torch.Tensor | None = device.execute(op, q, cache, step, index, self.plan, *new)
        return out
