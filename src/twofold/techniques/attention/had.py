"""HAD: keys and queries become vectors of signs, scores become Hamming distances, and each query attends to
its N nearest keys.

Source: "Hamming Attention Distillation: Binarizing Keys and Queries for Efficient Long-Context Transformers",
arXiv:2502.01770. Signs are packed into bits and compared by XOR and popcount; a score is the inner product of
the signs times the standard deviations of queries and keys; the N greatest scores of each query go through
the softmax, and N grows with the context (30 of 256 tokens, 120 of 1024).

Without a distilled file this is the source's starting point: plain signs, and standard deviations from a
calibration text. Differs: deviations are per head, not per layer, as every head has scores of its own;
`twofold distill` does not train the whole model but, per head, a matrix and thresholds before the sign and
the factor on scores, which is what the source's training does to queries and keys; they come after the
rotation, so that they cannot be folded into the weights; among entries at equal distance, the newer is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer, Heads
from twofold.models.spec import ModelSpec
from twofold.models.transformer import Transformer
from twofold.techniques.attention.had_cache import HadCache, HeadCodes
from twofold.techniques.attention.had_file import check_codes, load_codes
from twofold.techniques.attention.had_layout import HadLayout, TopN
from twofold.techniques.attention.hamming import SignMap
from twofold.techniques.attention.watching import watch
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.requirements import require_keys

_PAPER = "arXiv:2502.01770"
_HARDWARE = "simulated custom hardware"
_NO_WEIGHTS = "needs the source's distilled {} and its {}, which are not available offline"


def _loss(key: str, figure: str, share: float, baseline: str, model: str, data: str) -> Claim:
    why = _NO_WEIGHTS.format(model, data)
    return Claim(
        key, figure, (share, share), "points", baseline, model, "", f"{_PAPER}, abstract", why_not=why
    )


def _saved(key: str, figure: str, share: float, setup: str) -> Claim:
    return Claim(
        key,
        figure,
        (share, share),
        "share",
        "the same datapath with standard attention",
        "one attention head",
        _HARDWARE,
        f"{_PAPER}, abstract",
        setup,
    )


class HadScheme:
    """Every layer's cache is a HadCache.

    counters: pairs of a query and an entry that were compared, and that were attended to, of one layer of
    each kind. codes: what the layers' heads learned, by layer; None on a modelled device.
    """

    def __init__(self, top: TopN, codes: Sequence[HeadCodes] | None, *, turned: bool) -> None:
        self.layout = HadLayout(top)
        self.counters = self.layout.counters
        self.codes = codes
        self.turned = turned

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of layer number `layer`; ValueError where what was learned has other heads."""
        learned = None if self.codes is None else self.codes[layer]
        if learned is not None and len(learned.scale) != heads.heads:
            raise ValueError(
                f"technique had: {len(learned.scale)} heads a layer were distilled, and this rank has "
                f"{heads.heads} of them; leave `distilled` or tensor parallelism out"
            )
        return HadCache(heads, block_size, self.layout, learned, turned=self.turned)


@dataclass(frozen=True)
class Had(Technique):
    """n: entries that a query attends to, if it sees at most `context`; of more, the same share n / context.
    distilled: a file that `twofold distill` wrote; None: plain signs."""

    n: int = 30
    context: int = 256
    distilled: str | None = None

    info: ClassVar[Info] = Info(
        name="had",
        title=(
            "Hamming Attention Distillation: Binarizing Keys and Queries for Efficient Long-Context "
            "Transformers"
        ),
        source=_PAPER,
        summary="attends to the N keys whose packed signs are nearest to the query's, by XOR and popcount",
        seams=("cache", "attention"),
        lossless=False,
        provides=("cache-storage", "attention-method"),
        excludes=("cache-storage", "attention-method", "retention"),
        reasons={
            "retention": "the other technique scores keys as numbers, of which only the signs are stored; "
            "name one of the two",
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _loss("had-glue", "mean loss on GLUE", 1.78, "the full-precision model", "BERT-base", "GLUE"),
        _loss(
            "had-imagenet",
            "loss of accuracy on ImageNet",
            2.5,
            "the full-precision model",
            "DeiT",
            "ImageNet",
        ),
        _saved("had-area", "area that binary attention saves", 0.79, "had:area"),
        _saved("had-power", "power that binary attention saves", 0.87, "had:power"),
    )

    def __post_init__(self) -> None:
        where = "technique had"
        if self.n < 1:
            raise ValueError(f"{where}: n must be at least 1 entry, not {self.n}")
        if self.context < self.n:
            raise ValueError(f"{where}: context must be at least n ({self.n}), not {self.context}")
        if self.distilled is not None and not Path(self.distilled).is_file():
            raise ValueError(
                f"{where}: there is no file {self.distilled!r}; write it with `twofold distill`, or leave "
                "`distilled` out for plain signs"
            )

    def check(self, spec: ModelSpec) -> None:
        """Heads must fill whole bytes; a file must be of a model with the same heads."""
        where = "technique had"
        require_keys("had", spec)
        if spec.head_dim % 8:
            raise ValueError(
                f"{where}: heads of {spec.name} are {spec.head_dim} wide, not a multiple of 8, so that signs "
                "do not fill whole bytes; leave had out"
            )
        if self.distilled is not None:
            check_codes(Path(self.distilled), spec)

    @property
    def top(self) -> TopN:
        """How many entries a query attends to."""
        return TopN(self.n, self.context)

    # --- calibration ---

    @property
    def needs_calibration(self) -> bool:
        """Whether the deviations of queries and keys are still to be measured."""
        return self.distilled is None

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with factors on scores from the deviations of queries and keys on `token_ids`."""
        return self.with_calibration(plain_codes(model, device, token_ids))

    def cache_scheme(self) -> HadScheme:
        """A HadScheme with these parameters."""
        codes = self.calibration if self.distilled is None else load_codes(Path(self.distilled))
        return HadScheme(self.top, codes, turned=self.distilled is not None)


def plain_codes(model: Transformer, device: Device, token_ids: Sequence[int]) -> list[HeadCodes]:
    """Plain signs for every layer, with the factor on scores: that of the model, times the standard
    deviations of a head's queries and of its keys on `token_ids`."""
    if len(token_ids) < 2:
        raise ValueError("technique had: calibration needs text of at least two tokens")
    scales = [torch.ones(0)] * model.spec.num_layers

    def see(layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
        deviations = [x.float().std(dim=(0, 2), correction=0) for x in (q, k)]
        group = q.shape[1] // k.shape[1]
        scales[layer] = model.spec.scale * deviations[0] * deviations[1].repeat_interleave(group)

    watch(model, device, token_ids, see)
    return [HeadCodes(SignMap(), SignMap(), scale.clone()) for scale in scales]
