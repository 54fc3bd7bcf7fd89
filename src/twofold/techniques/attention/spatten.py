"""SpAtten: tokens and heads that matter little are pruned layer by layer and stay pruned in all later layers;
the upper bits of keys are read first, and all bits only if no entry stands out; values are read of the
entries with the largest weights alone.

Source: "SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning",
arXiv:2012.09852, and github.com/mit-han-lab/spatten, whose workload for GPT-2 medium gives the shares of
tokens, heads and values and their depths. A token matters by the attention that it received so far, summed
over layers, heads and queries; a head by the magnitude of its outputs so far.

The accelerator is the device `spatten`. Differs: without the source's fine-tuning of the pruned model. As in
that workload, prompts attend to everything, and generated tokens to what is left; up to 32 new tokens that
follow others (drafts, say) count as generated and share one choice. Keys have 4 upper and 4 lower bits,
values 8; the upper bits alone stand for the middle of their range. Heads that share keys are pruned one by
one, and the keys are read as long as any of them is left. Pruned entries stay in the cache, as earlier layers
may still need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.spec import ModelSpec
from twofold.techniques.attention.spatten_cache import SpattenCache
from twofold.techniques.attention.spatten_cascade import Cascade
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.requirements import require_keys

_PAPER = "arXiv:2012.09852"
_MODEL = "30 benchmarks on BERT and GPT-2"


def _against(key: str, figure: str, ratio: float, baseline: str, setup: str) -> Claim:
    hardware, source = "SpAtten, TSMC 40 nm, simulated", f"{_PAPER}, abstract"
    return Claim(
        f"spatten-{key}",
        figure,
        (ratio, ratio),
        "x",
        baseline,
        _MODEL,
        hardware,
        source,
        setup,
    )


_SPEED, _ENERGY = "speed-up of attention", "energy of attention, ratio"
_A3, _MNNFAST, _GPU, _CPU = "A3 accelerator", "MNNFast", "NVIDIA TITAN Xp", "Intel Xeon"


class SpattenScheme:
    """Every layer's cache is a SpattenCache. counters: see `Cascade`, of all layers that were computed."""

    def __init__(self, technique: Spatten) -> None:
        t = technique
        self.cascade = Cascade(t.tokens, t.heads, t.values, t.threshold)
        self.counters = self.cascade.counters
        self._first: SpattenCache | None = None

    def expect(self, behaviour: Mapping[str, float]) -> None:
        """How often all bits are needed where nothing is computed."""
        share = behaviour["lsb_share"]
        if not 0 <= share <= 1:
            raise ValueError(f"behaviour lsb_share must lie in [0, 1], not {share}")
        self.cascade.unsure = share

    def measured(self) -> dict[str, float]:
        """How often all bits were needed, where anything was pruned."""
        rows = self.counters["rows_scored"]
        return {"lsb_share": self.counters["rows_refined"] / rows} if rows else {}

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of layer number `layer`; the first that is made holds what entries matter."""
        made = SpattenCache(heads, block_size, layer, self.cascade)
        self._first = made.first = self._first or made
        self.cascade.num_layers = max(self.cascade.num_layers, layer + 1)
        return made


@dataclass(frozen=True)
class Spatten(Technique):
    """tokens, heads: shares that are left in the last layers; values: share of those tokens whose values are
    read; threshold: attention weight that an entry must reach for the upper bits to suffice."""

    tokens: float = 0.3
    heads: float = 0.625
    values: float = 0.3
    threshold: float = 0.1

    info: ClassVar[Info] = Info(
        name="spatten",
        title="SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning",
        source=_PAPER,
        summary="prunes tokens and heads layer by layer; reads the upper bits of keys first, and few values",
        seams=("attention", "cache"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "retention": "it keeps every entry for the layers that still need it, and decides itself which "
            "matter; name one of the two",
        },
        behaviour={
            "lsb_share": (0.059, f"{_PAPER}: 5.9 % of the inputs need the lower bits"),
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "spatten-dram",
            "bytes read by attention, the baseline's over SpAtten's",
            (10.0, 10.0),
            "x",
            "attention over the whole fp16 cache",
            _MODEL,
            "counted",
            f"{_PAPER}, abstract",
            "dram",
        ),
        _against("a3", _SPEED, 1.6, _A3, "speed_a3"),
        _against("mnnfast", _SPEED, 3.0, _MNNFAST, "speed_mnnfast"),
        _against("gpu", _SPEED, 162.0, _GPU, "speed_gpu"),
        _against("cpu", _SPEED, 347.0, _CPU, "speed_cpu"),
        # The abstract prints the first of these as "1,4x".
        _against("a3-energy", _ENERGY, 1.4, _A3, "energy_a3"),
        _against("mnnfast-energy", _ENERGY, 3.2, _MNNFAST, "energy_mnnfast"),
        _against("gpu-energy", _ENERGY, 1193.0, _GPU, "energy_gpu"),
        _against("cpu-energy", _ENERGY, 4059.0, _CPU, "energy_cpu"),
    )

    def __post_init__(self) -> None:
        for name in ("tokens", "heads", "values"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"technique spatten: {name} must lie in (0, 1], not {getattr(self, name)}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"technique spatten: threshold must lie in [0, 1], not {self.threshold}")

    def check(self, spec: ModelSpec) -> None:
        """Every layer must see the whole context."""
        where = "technique spatten"
        require_keys("spatten", spec)
        if not all(spec.is_global(i) for i in range(spec.num_layers)):
            raise ValueError(
                f"{where}: layers of {spec.name} see {spec.window} tokens, and what is pruned in one layer "
                "stays pruned in all behind it; use a model whose layers all see the whole context"
            )
        if spec.head_dim % 2:
            raise ValueError(
                f"{where}: heads of {spec.name} are {spec.head_dim} wide, an odd number, so that 4-bit codes "
                "do not fill whole bytes; leave spatten out"
            )

    def cache_scheme(self) -> SpattenScheme:
        """A SpattenScheme with these parameters."""
        return SpattenScheme(self)
