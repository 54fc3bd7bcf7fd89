"""SparF attention: a decoded token compares its query with all keys on the few elements where the query is
large, and attends to the keys that score best there; the mean value stands for all others.

Source: algorithm 1 of "InstInfer: In-Storage Attention Offloading for Cost-Effective Long-Context LLM
Inference" (arXiv:2409.04992; HPCA 2025), which is "SparQ Attention: Bandwidth-Efficient LLM Inference"
(arXiv:2312.04985) with entries in groups that fit pages of flash: keys are stored twice, with the elements of
a token together and with the tokens of an element together. Groups that hold a kept key are counted, since
flash is read by the page; other memories read only what is kept. Differs: the mean of the values is computed
from one sum per block; heads that share a KV head choose together; up to 32 tokens that follow others choose
as well, each for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.dense_cache import DenseCache
from twofold.models.spec import ModelSpec
from twofold.techniques.attention.sparf_cache import Choice, SparfCache
from twofold.techniques.base import Info, Technique
from twofold.techniques.requirements import require_global_layer

_PAPER = "arXiv:2409.04992"


class SparfScheme:
    """Every layer's cache is a SparfCache, except with a sliding window. counters: see `Choice`."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.counters = choice.counters

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of any layer."""
        del layer
        if heads.window is not None:
            return DenseCache(heads, block_size)
        return SparfCache(heads, block_size, self.choice)

    def expect(self, behaviour: Mapping[str, float]) -> None:
        """The share of the groups that is read where nothing is computed."""
        self.choice.expected_groups = behaviour["groups_read"]

    def measured(self) -> dict[str, float]:
        """The share that was read, if any query chose."""
        seen = self.counters["groups_seen"]
        return {"groups_read": self.counters["groups_read"] / seen} if seen else {}


@dataclass(frozen=True)
class Sparf(Technique):
    """compression: a query compares one of so many elements, and attends to one of so many keys. group:
    tokens that are read together."""

    compression: int = 8
    group: int = 16

    info: ClassVar[Info] = Info(
        name="sparf",
        title="InstInfer: In-Storage Attention Offloading for Cost-Effective Long-Context LLM Inference",
        source=_PAPER,
        summary="attends to the keys that score best on the few elements where a query is large",
        seams=("cache", "attention"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "retention": "its second copy of the keys holds whole blocks, of which no entry can be dropped; "
            "name one of the two",
        },
        behaviour={"groups_read": (0.5, f"{_PAPER}, HPCA 2025 version, section IV-C: about half")},
    )

    def __post_init__(self) -> None:
        for name, least in (("compression", 2), ("group", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"technique sparf: {name} must be at least {least}, not {getattr(self, name)}"
                )

    def check(self, spec: ModelSpec) -> None:
        """Some layer must attend to the whole context, by keys and values of enough elements."""
        require_global_layer("sparf", spec)
        if self.compression > spec.head_dim:
            raise ValueError(
                f"technique sparf: compression must be at most {spec.head_dim}, the width of {spec.name}'s "
                f"heads, not {self.compression}"
            )

    def cache_scheme(self) -> SparfScheme:
        """A SparfScheme with these parameters."""
        return SparfScheme(Choice(self.compression, self.group))
