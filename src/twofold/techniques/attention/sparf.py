"""SparF attention: a decoded token compares its query with all keys in the few elements where the query is
large, and attends to the keys that look best there; what the others would have added is their mean value.

Source: algorithm 1 of "InstInfer: In-Storage Attention Offloading for Cost-Effective Long-Context LLM
Inference" (arXiv:2409.04992; HPCA 2025), which is "SparQ Attention: Bandwidth-Efficient LLM Inference"
(arXiv:2312.04985) with entries in groups that fit pages of flash: keys are stored twice, with the elements of
a token together and with the tokens of an element together. How many groups hold a key that is kept is
counted, since flash is read by the page; other memories read what is kept alone. Differs: the mean of the
values is made of sums by block; heads that share a KV head choose together; up to 32 tokens that come
together behind others choose as well, each for itself.
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

_PAPER = "arXiv:2409.04992"


class SparfScheme:
    """Every layer's cache is a SparfCache, but for those with a sliding window. counters: see `Choice`."""

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
        """What share of the groups is read where nothing is computed."""
        self.choice.expected_groups = behaviour["groups_read"]

    def measured(self) -> dict[str, float]:
        """What share was."""
        seen = self.counters["groups_seen"]
        return {"groups_read": self.counters["groups_read"] / seen} if seen else {}


@dataclass(frozen=True)
class Sparf(Technique):
    """compression: a query compares one element of so many, and attends to one key of so many. group: tokens
    that are read together."""

    compression: int = 8
    group: int = 16

    info: ClassVar[Info] = Info(
        name="sparf",
        title="InstInfer: In-Storage Attention Offloading for Cost-Effective Long-Context LLM Inference",
        source=_PAPER,
        summary="attends to the keys that look best in the few elements where a query is large",
        seams=("cache", "attention"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "cache-storage": "a cache entry is stored in one way; name one technique that changes it",
            "attention-method": "its cache decides what a query attends to; name one technique that does",
            "retention": "keys by element are of whole blocks; keep all entries, or leave sparf out",
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
        if spec.latent is not None:
            raise ValueError(
                f"technique sparf: {spec.name} caches one latent per token, not keys and values; leave it out"
            )
        if not any(spec.is_global(i) for i in range(spec.num_layers)):
            raise ValueError(
                f"technique sparf: all layers of {spec.name} attend to {spec.window} near tokens alone; "
                "leave it out"
            )
        if self.compression > spec.head_dim:
            raise ValueError(
                f"technique sparf: compression {self.compression} leaves no element of the {spec.head_dim} "
                f"that heads of {spec.name} have; use {spec.head_dim} or less"
            )

    def cache_scheme(self) -> SparfScheme:
        """A SparfScheme with these parameters."""
        return SparfScheme(Choice(self.compression, self.group))
