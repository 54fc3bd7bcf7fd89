"""LLM-Drop: attention or MLP sublayers whose output hardly differs from their input are left out.

Source: "What Matters in Transformers? Not All Attention is Needed", arXiv:2406.15786: a sublayer with its
norm and residual is redundant as far as its output points where its input does (mean cosine similarity over
calibration tokens); the most redundant are dropped in one shot. Differs: calibration reads one text of a few
hundred tokens (the source's scripts: 256 of 2048 tokens), and at least one attention sublayer stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from twofold.devices.base import Device
from twofold.errors import nearest
from twofold.models.spec import ModelSpec
from twofold.models.transformer import Transformer
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.layers.similarity import Similarities, sublayer_similarities

_PAPER = "arXiv:2406.15786"
TARGETS = ("attention", "mlp", "block", "joint")

# Joint dropping took attention alone until 14 of 32 (Mistral-7B), 18 of 40 (Llama-2-13B) went: section 7.
_JOINT_ATTENTION_FIRST = 0.45


@dataclass(frozen=True)
class Dropped:
    """Layer numbers whose attention and whose MLP are left out."""

    attention: frozenset[int]
    mlp: frozenset[int]


@dataclass(frozen=True)
class LlmDrop(Technique):
    """Drop the `num` most redundant sublayers, or the share `share` of them if no number is given.

    target: what is scored and dropped: "attention", "mlp", "block" (both sublayers of a layer, scored
    together) or "joint" (attention and MLP sublayers in one ranking); num and share count these.
    attention_layers, mlp_layers: an explicit choice of layers (from 0), without calibration. Without
    calibration, as in a prediction, the deepest but the last are dropped: what is saved depends on how many
    are dropped, not on which.
    """

    target: str = "attention"
    num: int | None = None
    share: float = 0.25
    attention_layers: tuple[int, ...] | None = None
    mlp_layers: tuple[int, ...] | None = None

    info: ClassVar[Info] = Info(
        name="llm-drop",
        title="What Matters in Transformers? Not All Attention is Needed",
        source=_PAPER,
        summary="leaves out the attention or MLP sublayers that change their input least",
        seams=("layers",),
        lossless=False,
        provides=("layer-selection",),
        excludes=("layer-selection",),
        behaviour={
            "joint-attention-first": (
                _JOINT_ATTENTION_FIRST,
                f"{_PAPER}, section 7: share of attention sublayers that joint dropping takes before any MLP",
            )
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "speedup-llama-2-70b",
            "speed-up of prefill and decode (2048 tokens in, 2048 out), 40 of 80 attention layers dropped",
            (1.484, 1.484),
            "×",
            "all layers",
            "Llama-2-70B, 4-bit weights",
            "1 x RTX 6000 Ada",
            f"{_PAPER}, abstract; table 3; setup: section 5",
            "llm_drop:speedup_llama_2_70b",
        ),
        Claim(
            "speedup-llama-2-13b",
            "speed-up of prefill and decode (2048 tokens in, 2048 out), 20 of 40 attention layers dropped",
            (1.40, 1.40),
            "×",
            "all layers",
            "Llama-2-13B, 16-bit weights",
            "1 x RTX 6000 Ada",
            f"{_PAPER}, table 1; setup: section 5",
            "llm_drop:speedup_llama_2_13b",
        ),
        Claim(
            "kv-cache-llama-2-70b",
            "KV cache with 40 of 80 attention layers over that with all (batch 32, 2048 tokens)",
            (0.5, 0.5),
            "×",
            "all layers",
            "Llama-2-70B, 16-bit cache",
            "any",
            f"{_PAPER}, table 4",
            "llm_drop:kv_cache_llama_2_70b",
        ),
        Claim(
            "quality-llama-2-70b",
            "mean score over eight tasks lost by dropping 40 of 80 attention layers",
            (2.4, 2.4),
            "points",
            "all layers",
            "Llama-2-70B",
            "any",
            f"{_PAPER}, abstract and table 3",
            why_not="needs the model's weights and eight question sets, not available offline",
        ),
        Claim(
            "mmlu-llama-2-13b",
            "share of the MMLU score kept by dropping 31 attention and MLP sublayers jointly",
            (0.90, 0.90),
            "share",
            "all layers",
            "Llama-2-13B",
            "any",
            f"{_PAPER}, abstract and section 7",
            why_not="needs the model's weights and the MMLU questions, not available offline",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique llm-drop"
        if self.target not in TARGETS:
            raise ValueError(f"{where}: unknown target {self.target!r}; {nearest(self.target, TARGETS)}")
        if self.num is not None and self.num < 1:
            raise ValueError(f"{where}: num must be at least 1, not {self.num}")
        if not 0 < self.share < 1:
            raise ValueError(f"{where}: share must lie between 0 and 1, not {self.share}")
        if self.is_explicit and self.num is not None:
            raise ValueError(f"{where}: attention_layers and mlp_layers say what to drop; leave num out")

    @property
    def is_explicit(self) -> bool:
        """Whether the layers to drop are given."""
        return self.attention_layers is not None or self.mlp_layers is not None

    # --- what is dropped ---

    def check(self, spec: ModelSpec) -> None:
        """ValueError where a layer does not exist, or where no attention would be left."""
        where, layers = "technique llm-drop", spec.num_layers
        for name in ("attention_layers", "mlp_layers"):
            if wrong := [i for i in getattr(self, name) or () if not 0 <= i < layers]:
                raise ValueError(f"{where}: {name} names {wrong}; {spec.name} has layers 0 to {layers - 1}")
        if len(set(self.attention_layers or ())) == layers:
            raise ValueError(f"{where}: at least one of {spec.name}'s {layers} attention sublayers must stay")
        self.count(layers)

    def count(self, num_layers: int) -> int:
        """How many sublayers (blocks, for target "block") of a model of `num_layers` are dropped."""
        if self.is_explicit:
            return len(set(self.attention_layers or ())) + len(set(self.mlp_layers or ()))
        units = num_layers * (2 if self.target == "joint" else 1)
        count = self.num if self.num is not None else round(self.share * units)
        if not 0 < count < units:
            what = "sublayers" if self.target == "joint" else f"{self.target} layers"
            asked = f"num {self.num}" if self.num is not None else f"share {self.share}"
            raise ValueError(
                f"technique llm-drop: {asked} drops {count} of {units} {what}; use 1 to {units - 1}"
            )
        return count

    def dropped(self, num_layers: int) -> Dropped:
        """What is left out of a model of `num_layers`: as given or calibrated, else by depth."""
        if self.is_explicit:
            return Dropped(frozenset(self.attention_layers or ()), frozenset(self.mlp_layers or ()))
        return self._pick(_by_depth(self.target, num_layers), num_layers)

    def _pick(self, ranking: list[tuple[str, int]], num_layers: int) -> Dropped:
        """The first `count` of `ranking` (sublayer or "block", layer), but never the last attention."""
        attention: set[int] = set()
        mlp: set[int] = set()
        left = self.count(num_layers)
        for kind, layer in ranking:
            if left == 0:
                break
            if kind != "mlp" and len(attention) == num_layers - 1:
                continue
            if kind != "mlp":
                attention.add(layer)
            if kind != "attention":
                mlp.add(layer)
            left -= 1
        return Dropped(frozenset(attention), frozenset(mlp))

    def layer_selection(self) -> LayerDrop:
        """Which sublayers exist."""
        return LayerDrop(self)

    # --- calibration ---

    @property
    def needs_calibration(self) -> bool:
        """Whether the layers to drop are still to be found."""
        return not self.is_explicit

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with the layers chosen by how `model` treats `token_ids`; `calibration` is the
        `Similarities` that chose them."""
        if len(token_ids) == 0:
            raise ValueError("technique llm-drop: calibration needs text of at least one token")
        found = sublayer_similarities(model, device, token_ids)
        chosen = self._pick(_by_similarity(self.target, found), len(found.block))
        learned = replace(
            self,
            num=None,
            attention_layers=tuple(sorted(chosen.attention)),
            mlp_layers=tuple(sorted(chosen.mlp)),
        )
        return learned.with_calibration(found)


class LayerDrop:
    """The sublayers that exist. counters: sublayers dropped from the model that was built."""

    def __init__(self, technique: LlmDrop) -> None:
        self.technique = technique
        self._gone: set[tuple[str, int]] = set()

    @property
    def counters(self) -> dict[str, int]:
        """What it did so far, by name."""
        return {"sublayers_dropped": len(self._gone)}

    def keeps_attention(self, layer: int, num_layers: int) -> bool:
        """Whether attention of `layer` runs."""
        return self._keeps("attention", layer, self.technique.dropped(num_layers).attention)

    def keeps_mlp(self, layer: int, num_layers: int) -> bool:
        """Whether the MLP of `layer` runs."""
        return self._keeps("mlp", layer, self.technique.dropped(num_layers).mlp)

    def _keeps(self, kind: str, layer: int, dropped: frozenset[int]) -> bool:
        if layer in dropped:
            self._gone.add((kind, layer))
        return layer not in dropped


def _by_depth(target: str, num_layers: int) -> list[tuple[str, int]]:
    """All sublayers, those that usually are most redundant first: deep ones but the last (section 6.1)."""
    order = [*range(num_layers - 2, -1, -1), num_layers - 1]
    if target != "joint":
        return [(target, layer) for layer in order]
    first = round(_JOINT_ATTENTION_FIRST * num_layers)
    attention, mlp = ([(kind, layer) for layer in order] for kind in ("attention", "mlp"))
    rest = [pair for both in zip(mlp, attention[first:], strict=False) for pair in both]
    return attention[:first] + rest + mlp[num_layers - first :]


def _by_similarity(target: str, found: Similarities) -> list[tuple[str, int]]:
    """All sublayers, most redundant first; of equals the deeper."""
    kinds = ("attention", "mlp") if target == "joint" else (target,)
    scored = [(score, layer, kind) for kind in kinds for layer, score in enumerate(found.of(kind))]
    return [(kind, layer) for _, layer, kind in sorted(scored, reverse=True)]
