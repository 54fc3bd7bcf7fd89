"""ZipVL: each layer's attention decides how many tokens of a prompt are important to it; only these attend
to each other, and only they are cached in four bits, the rest in two.

Source: "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification and KV Cache
Compression", arXiv:2410.08584v1. Probes (the newest queries and as many others) show the distribution of
attention; the fewest tokens that hold the share tau of it are important, chosen by their mean weight.

Differs: for text models; the other probes are spread evenly instead of drawn at random, so that runs repeat;
a prompt that comes in pieces is judged piece by piece, and a piece attends to all that is stored of earlier
ones; layers with a sliding window judge tokens, but attend to everything; entries are quantised one by one,
after a division by their channel's size, for keys and values alike, so that each may have its own precision;
entries of generated tokens are always important; the low bits of important entries come from a pool of fixed
size that all layers share, and once it is empty an entry keeps its high bits alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.spec import ModelSpec
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.cache.zipvl_cache import ZipCache
from twofold.techniques.cache.zipvl_store import Zipped
from twofold.techniques.requirements import require_keys

_PAPER = "arXiv:2410.08584v1"
_MODEL = "LongVA-7B (Qwen2-7B)"
_HARDWARE = "NVIDIA A100"


class ZipScheme:
    """Every layer's cache is a ZipCache.

    counters: prompt tokens that were probed, those of them that were important, and entries that were
    important enough for four bits, over all layers that were computed.
    """

    def __init__(self, technique: ZipVL) -> None:
        self.shared = Zipped(technique.tau, technique.probes, technique.high_share)
        self.counters = self.shared.counters

    def expect(self, behaviour: Mapping[str, float]) -> None:
        """How much of a prompt is important where nothing is computed."""
        share = behaviour["important_share"]
        if not 0 < share <= 1:
            raise ValueError(f"behaviour important_share must lie in (0, 1], not {share}")
        self.shared.share = share

    def measured(self) -> dict[str, float]:
        """The share of prompts that was important, if any was probed."""
        probed = self.counters["tokens_probed"]
        return {"important_share": self.counters["tokens_important"] / probed} if probed else {}

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of any layer."""
        del layer
        return ZipCache(heads, block_size, self.shared)


@dataclass(frozen=True)
class ZipVL(Technique):
    """tau: share of the attention that important tokens hold. probes: newest queries that are probed, and as
    many others; prompts of no more tokens than these are left alone (both defaults are second-hand).
    high_share: share of all entries of all layers that the pool holds low bits for."""

    tau: float = 0.975
    probes: int = 64
    high_share: float = 0.8

    info: ClassVar[Info] = Info(
        name="zipvl",
        title=(
            "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification and KV Cache "
            "Compression"
        ),
        source="arXiv:2410.08584",
        summary="only the tokens of a prompt that hold most attention attend, and are cached in more bits",
        seams=("cache", "attention"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "retention": "it stores less important entries in fewer bits instead of dropping them; name one "
            "of the two",
        },
        behaviour={"important_share": (0.81, "measured on SmolLM2-135M, prompts of 384 tokens of prose")},
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "zipvl-prefill",
            "time of the prefill phase, full attention over ZipVL",
            (2.6, 2.6),
            "x",
            "full attention (FlashAttention)",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}, abstract",
            "prefill",
        ),
        Claim(
            "zipvl-memory",
            "GPU memory saved",
            (0.5, 0.5),
            "share",
            "fp16 cache",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}, abstract",
            "memory",
        ),
        Claim(
            "zipvl-accuracy",
            "loss of accuracy on Video-MME",
            (0.2, 0.2),
            "points",
            "the unmodified model",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}, abstract",
            why_not="needs a vision-language model, its weights and videos, which are not available offline",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique zipvl"
        if not 0 < self.tau < 1:
            raise ValueError(f"{where}: tau must lie between 0 and 1, not {self.tau}")
        if self.probes < 1:
            raise ValueError(f"{where}: probes must be at least 1 query, not {self.probes}")
        if not 0 < self.high_share <= 1:
            raise ValueError(f"{where}: high_share must lie in (0, 1], not {self.high_share}")

    def check(self, spec: ModelSpec) -> None:
        """Elements must fill whole bytes."""
        require_keys("zipvl", spec)
        if spec.head_dim % 4:
            raise ValueError(
                f"technique zipvl: heads of {spec.name} are {spec.head_dim} wide, not a multiple of 4, so "
                "that two bits of each element do not fill whole bytes; leave zipvl out"
            )

    def cache_scheme(self) -> ZipScheme:
        """A ZipScheme with these parameters."""
        return ZipScheme(self)
