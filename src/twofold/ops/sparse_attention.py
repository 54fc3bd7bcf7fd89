"""Sparse prefill attention: finding out which keys matter, and attending to those alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.ops.attention import Attention


@dataclass(frozen=True, slots=True)
class EstimateAttention(Attention):
    """Scores of some queries over all keys, without values: what a sparse index is made of.

    totals.pairs: scores per head, on average; v_dim is 0, since no values are read; cache_bytes: of keys.
    """

    kind: ClassVar[str] = "attention-index"


@dataclass(frozen=True, slots=True)
class SparseAttention(Attention):
    """Attention of tiles of queries to chosen keys.

    totals.pairs: pairs computed per head, on average; totals.max_keys: the most that a tile reads;
    cache_bytes: of the entries that some tile reads, once.
    """
