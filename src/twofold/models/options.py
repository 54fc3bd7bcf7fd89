"""How a model is put together: what a plan and its techniques decide before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from twofold.models.attending import AttendingScheme
from twofold.models.cache import CacheScheme
from twofold.models.parallel import Parallel
from twofold.models.placement import Placement
from twofold.models.retaining import RetainerScheme
from twofold.models.stored_weights import StoredWeights
from twofold.models.weights import WeightScheme
from twofold.ops.base import Precision


class LayerSelection(Protocol):
    """Which sublayers exist. Technique seam."""

    def keeps_attention(self, layer: int, num_layers: int) -> bool:
        """Whether attention of `layer` runs."""

    def keeps_mlp(self, layer: int, num_layers: int) -> bool:
        """Whether the MLP of `layer` runs."""


class AllLayers:
    """Every sublayer runs: the default."""

    def keeps_attention(self, layer: int, num_layers: int) -> bool:
        """True."""
        return True

    def keeps_mlp(self, layer: int, num_layers: int) -> bool:
        """True."""
        return True


@dataclass(slots=True)
class ModelOptions:
    """How to put a model together. `max_positions`: length of the position tables, in tokens; `stored`: the
    checkpoint whose quantised matrices are kept as they are stored (None: they are widened); `native`: it
    will run on native CPU kernels, for which matrices are laid out; `rank`: of its tensor-parallel group;
    `max_drafts`: guesses that a sequence may have at once; `plain_cache`: how entries are stored that no
    technique stores."""

    precision: Precision = "fp32"
    parallel: Parallel = field(default_factory=Parallel)
    weights: WeightScheme | None = None
    cache: CacheScheme | None = None
    selection: LayerSelection | None = None
    attending: AttendingScheme | None = None
    retainers: RetainerScheme | None = None
    block_size: int = 16
    max_positions: int | None = None
    stored: StoredWeights | None = None
    native: bool = False
    rank: int = 0
    max_drafts: int = 0
    placement: Placement | None = None
    plain_cache: CacheScheme | None = None
