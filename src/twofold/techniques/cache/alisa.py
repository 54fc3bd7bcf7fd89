"""ALISA: a generated token attends to the newest tokens and to those older ones that drew most attention
lately. The newest entries stay on the device, older ones go to the host, and in long sequences the oldest are
deleted and recomputed when they are chosen.

Source: Zhao, Wu, Wang, "ALISA: Accelerating Large Language Model Inference via Sparsity-Aware KV Caching",
ISCA 2024, arXiv:2403.17312: sparse window attention (algorithm 1), three phases (algorithm 2), INT8 entries
(section V.B). It builds on FlexGen, whose 8-bit codes belong to groups of a token's channels.

The source's offload ratio alpha is not a parameter here: a sequence of n tokens keeps its p1 newest on the
device in phases II and III, so alpha = 1 - p1 / n. The source searches p1, p2 and beta for each model,
workload and machine, and gives no values. Nor does it say what deleted tokens are recomputed from. Here it is
the inputs of their layer, which stay on the device, through the layer's own projection: from token ids alone,
all earlier layers would have to run, which takes longer than any transfer.

Differs: each head's key or value of a token is a group of its own; attention is summed over at most
`local_steps` steps, as many as the source sums over in its workloads of up to 640 tokens; prompts, and parts
of more than 32 tokens, attend to everything; up to 32 tokens that come together (drafts that are verified)
attend to the same choice; layers with a sliding window keep a dense cache. With grouped queries, inputs may
be larger than entries, and deleting then saves no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.dense_cache import DenseCache
from twofold.models.spec import ModelSpec
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.cache.alisa_cache import AlisaCache
from twofold.techniques.cache.alisa_schedule import Schedule
from twofold.techniques.requirements import require_global_layer

_PAPER = "arXiv:2403.17312"
_WORKLOAD = "128 tokens in, 512 out, 80 % sparsity, batches of 4 to 64"
_MODELS = "OPT-6.7B, OPT-13B, OPT-30B, LLaMA-7B, LLaMA-13B, LLaMA-33B"
_HARDWARE = "NVIDIA V100 16/32 GB, H100 80 GB (30B models), 20 GB/s to the host"


class AlisaScheme:
    """Every layer's cache is an AlisaCache, except with a sliding window. counters: see `Schedule`."""

    def __init__(self, schedule: Schedule, kv_bits: int) -> None:
        self.schedule = schedule
        self.kv_bits = kv_bits
        self.counters = schedule.counters

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of any layer."""
        del layer
        if heads.window is not None:
            return DenseCache(heads, block_size)
        return AlisaCache(heads, block_size, self.schedule, self.kv_bits)

    def expect(self, behaviour: Mapping[str, float]) -> None:
        """How far back the chosen tokens lie where nothing is computed."""
        spread = behaviour["global_spread"]
        if spread < 0:
            raise ValueError(f"behaviour global_spread must be at least 0, not {spread}")
        self.schedule.spread = spread

    def measured(self) -> dict[str, float]:
        """How far back they really lay, if any candidate lay off the device."""
        return {"global_spread": self.schedule.far / self.schedule.even} if self.schedule.even else {}


@dataclass(frozen=True)
class Alisa(Technique):
    """caching_ratio: share of a sequence's tokens that a generated one attends to, half of them the newest
    and half chosen. p1: tokens beyond which phase II keeps the older ones on the host. p2: tokens from which
    phase III deletes the oldest. beta: recompute ratio, the share of p2 tokens that it deletes; 0: none.
    kv_bits: 8, or 16 for entries in the activations' precision. local_steps: most preceding steps whose
    attention counts."""

    caching_ratio: float = 0.2
    p1: int = 256
    p2: int = 512
    beta: float = 0.25
    kv_bits: int = 8
    local_steps: int = 64

    info: ClassVar[Info] = Info(
        name="alisa",
        title="ALISA: Accelerating Large Language Model Inference via Sparsity-Aware KV Caching",
        source=_PAPER,
        summary="attends to recent and much-attended tokens; old ones go to the host or are recomputed",
        seams=("cache", "attention"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "retention": "it keeps every token, since any may be chosen again; name one of the two",
        },
        behaviour={
            "global_spread": (
                0.31,
                "measured on SmolLM2-135M, prompts of 384 tokens of prose, 128 out, p1=128",
            ),
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "alisa-flexgen",
            "throughput over FlexGen, at best",
            (3.0, 3.0),
            "x",
            "FlexGen",
            _MODELS,
            _HARDWARE,
            f"{_PAPER}, abstract ({_WORKLOAD})",
            "over_flexgen",
        ),
        Claim(
            "alisa-vllm",
            "throughput over vLLM, at best",
            (1.9, 1.9),
            "x",
            "vLLM",
            _MODELS,
            _HARDWARE,
            f"{_PAPER}, abstract ({_WORKLOAD})",
            "over_vllm",
        ),
        Claim(
            "alisa-recomputation",
            "time without recomputation over time with it",
            (1.2, 1.3),
            "x",
            "ALISA that deletes nothing",
            "OPT-30B",
            "NVIDIA H100 80 GB, 20 GB/s to the host",
            f"{_PAPER}, figure 12 (b): batch of 64, 128 tokens in, 512 out",
            "recomputation",
        ),
        Claim(
            "alisa-accuracy",
            "loss of perplexity or accuracy at 80 % sparsity",
            (0.0, 0.05),
            "share",
            "dense attention",
            _MODELS,
            "any",
            f"{_PAPER}, section VI.C: less than 5 % for most tasks",
            why_not="needs the models' weights and the tasks of lm-evaluation-harness, which are not "
            "available offline; a run of another model measures its perplexity and divergence",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique alisa"
        if not 0 < self.caching_ratio < 1:
            raise ValueError(f"{where}: caching_ratio must lie between 0 and 1, not {self.caching_ratio}")
        for name in ("p1", "local_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{where}: {name} must be at least 1, not {getattr(self, name)}")
        if self.p2 <= self.p1:
            raise ValueError(
                f"{where}: p2 (phase III) must be above p1 ({self.p1}, phase II), not {self.p2}; use "
                f"p2={2 * self.p1}"
            )
        most = 1 - self.p1 / self.p2
        if not 0 <= self.beta <= most + 1e-9:
            raise ValueError(
                f"{where}: beta must lie in [0, {most:g}], not {self.beta}: of p2={self.p2} tokens the "
                f"p1={self.p1} newest stay on the device"
            )
        if self.kv_bits not in (8, 16):
            raise ValueError(f"{where}: kv_bits must be 8 or 16, not {self.kv_bits}")

    def check(self, spec: ModelSpec) -> None:
        """Some layer must attend to the whole context, by keys and values."""
        require_global_layer(self.info.name, spec)

    def cache_scheme(self) -> AlisaScheme:
        """An AlisaScheme with these parameters."""
        deleted = round(self.beta * self.p2)
        schedule = Schedule(self.caching_ratio, self.p1, self.p2, deleted, self.local_steps)
        return AlisaScheme(schedule, self.kv_bits)
