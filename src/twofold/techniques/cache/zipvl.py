"""ZipVL: each layer's attention says how many tokens of a prompt are important to it; only those attend
to each other, and only they are cached with four bits, the rest with two.

Source: "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification and KV Cache
Compression", arXiv:2410.08584v1. Probes, the newest queries and as many others, show the distribution of
attention; as few tokens as hold the share tau of it are important, chosen by their mean weight.

Differs: for text models; the other probes are spread evenly instead of drawn, so that runs repeat; a
prompt that comes in pieces is judged piece by piece, a piece attends to all that was stored of earlier
ones; layers with a sliding window judge, but attend to everything; entries are quantised one by one
behind a division by their channel's size for keys and values alike, so that each may have its own
precision; entries of generated tokens are important; the further bits of important entries come from a
pool of a fixed size that all layers draw on, and an entry does without when it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.spec import ModelSpec
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.cache.zipvl_cache import ZipCache, Zipped

_PAPER = "arXiv:2410.08584v1"
_MODEL = "LongVA-7B (Qwen2-7B)"
_HARDWARE = "NVIDIA A100"


class ZipScheme:
    """Every layer's cache is a ZipCache.

    counters: tokens of prompts that were probed, and of them those that were important, and entries that were
    important enough for four bits, of all layers that were computed.
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
        """The share of prompts that was important, where any was probed."""
        probed = self.counters["tokens_probed"]
        return {"important_share": self.counters["tokens_important"] / probed} if probed else {}

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of any layer."""
        del layer
        return ZipCache(heads, block_size, self.shared)


@dataclass(frozen=True)
class ZipVL(Technique):
    """tau: share of the attention that important tokens hold. probes: newest queries that show it, and as
    many others; shorter prompts are left alone (both defaults second-hand). high_share: of all entries of all
    layers, those that the pool has further bits for."""

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
        summary="each layer attends to, and caches well, as many tokens of a prompt as hold its attention",
        seams=("cache", "attention"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "cache-storage": "a cache entry is stored in one way; name one technique that changes it",
            "attention-method": "it decides which tokens of a prompt attend to each other; name one method",
            "retention": "it says itself which entries matter, and stores the others with fewer bits instead "
            "of dropping them; name one of the two",
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
        if spec.latent is not None:
            raise ValueError(
                f"technique zipvl: {spec.name} caches one latent per token instead of keys and values; leave "
                "zipvl out"
            )
        if spec.head_dim % 4:
            raise ValueError(
                f"technique zipvl: heads of {spec.name} are {spec.head_dim} wide; two bits of each element "
                "fill no whole bytes"
            )

    def cache_scheme(self) -> ZipScheme:
        """A ZipScheme with these parameters."""
        return ZipScheme(self)
