"""RetrievalAttention: keys outside a static window lie in host memory, indexed by a graph that is built for
the queries of attention, whose distribution differs from that of keys; a token attends to the window and to
the keys that a search finds.

Source: "RetrievalAttention: Accelerating Long-Context LLM Inference via Vector Retrieval", arXiv:2409.10516:
a window of 640 tokens, the 100 best keys of each query, a graph made from the exact nearest keys of prefill
queries; and RoarGraph (VLDB 2024, github.com/matchyc/RoarGraph), whose parameters it has: query_neighbours
(its M_sq), degree (M_pjbp), build_list (L_pjpq, 500 there for ten million vectors).

Differs: the graph grows with each part of a prompt, and only the last queries of the part build it; tokens
that leave the window during generation are linked by search; heads that share a KV head share a graph; up to
32 tokens that come together (drafts that are verified, the end of a prompt) search as well; layers with a
sliding window keep a dense cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.dense_cache import DenseCache
from twofold.models.spec import ModelSpec
from twofold.techniques.attention.retrieval_cache import RetrievalCache
from twofold.techniques.attention.retrieval_layout import Layout
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.requirements import require_global_layer

_PAPER = "arXiv:2409.10516"
_MODEL = "Llama-3-8B-Instruct-262k, 131072 tokens"
_HARDWARE = "NVIDIA RTX 4090 24 GB, Intel i9-10900X"


class RetrievalScheme:
    """Every layer's cache is a RetrievalCache, except with a sliding window. counters: see `Layout`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.counters = layout.counters

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of any layer."""
        del layer
        if heads.window is not None:
            return DenseCache(heads, block_size)
        return RetrievalCache(heads, block_size, self.layout)

    def expect(self, behaviour: Mapping[str, float]) -> None:
        """The share of the keys that searches look at where nothing is computed."""
        self.layout.expected_share = behaviour["keys_read"]

    def measured(self) -> dict[str, float]:
        """The share that they looked at, if there were any."""
        searched = self.counters["keys_searched"]
        return {"keys_read": self.layout.keys_scanned / searched} if searched else {}


@dataclass(frozen=True)
class RetrievalAttention(Technique):
    """initial, recent: tokens of the static window. top_k: keys that a query takes from the host.
    search_list: best keys that a search keeps, at least top_k. degree: neighbours that a key gets from
    queries, and as many again from a search for it. query_neighbours: nearest keys of a query that are
    linked. build_list: best keys that are kept while a key is linked. training_queries: last tokens of each
    part of a prompt, whose queries link keys."""

    initial: int = 128
    recent: int = 512
    top_k: int = 100
    search_list: int = 100
    degree: int = 35
    query_neighbours: int = 100
    build_list: int = 100
    training_queries: int = 1024

    info: ClassVar[Info] = Info(
        name="retrievalattention",
        title="RetrievalAttention: Accelerating Long-Context LLM Inference via Vector Retrieval",
        source=_PAPER,
        summary="attends to a window and to the keys that a graph search in host memory finds",
        seams=("cache", "attention"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "retention": "its graphs link entries that the other technique would drop; name one of the two",
        },
        behaviour={"keys_read": (0.02, f"{_PAPER}, abstract: 1 to 3 % of the keys")},
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "keys-read",
            "share of the keys that a search looks at",
            (0.01, 0.03),
            "share",
            "exact nearest keys",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}, abstract",
            why_not=(
                "needs the 8B model's weights, which are not available offline; a run of another model "
                "records its share as `keys_read`"
            ),
        ),
        Claim(
            "token-seconds",
            "time to generate one token at 131072 tokens",
            (0.188, 0.188),
            "s",
            "none",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}, abstract",
            "retrievalattention:token_seconds",
        ),
        Claim(
            "gpu-memory",
            "memory of the GPU that serving 131072 tokens takes",
            (16.0, 16.0),
            "GB",
            "none",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}v1, abstract",
            "retrievalattention:gpu_memory",
        ),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        for name in ("recent", "top_k", "degree", "build_list", "training_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{where}: {name} must be at least 1, not {getattr(self, name)}")
        if self.initial < 0:
            raise ValueError(f"{where}: initial must be at least 0, not {self.initial}")
        if self.search_list < self.top_k:
            raise ValueError(
                f"{where}: search_list must be at least top_k ({self.top_k}), not {self.search_list}"
            )
        if self.query_neighbours < 2:
            raise ValueError(f"{where}: query_neighbours must be at least 2, not {self.query_neighbours}")

    def check(self, spec: ModelSpec) -> None:
        """Some layer must attend to the whole context, by keys and values."""
        require_global_layer(self.info.name, spec)

    def cache_scheme(self) -> RetrievalScheme:
        """A RetrievalScheme with these parameters."""
        return RetrievalScheme(
            Layout(
                self.initial,
                self.recent,
                self.top_k,
                self.search_list,
                self.degree,
                self.query_neighbours,
                self.build_list,
                self.training_queries,
            )
        )
