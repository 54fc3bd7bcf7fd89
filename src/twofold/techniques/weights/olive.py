"""OliVe: outliers of weights and activations are kept in 4 (or 8) bits, at the expense of their neighbours.

Source: "OliVe: Accelerating Large Language Models via Hardware-friendly Outlier-Victim Pair Quantization",
arXiv:2304.07493, and its code (clevercool/ANT-Quantization): types and pairs as in `outlier_victim`; a scale
per row of a matrix and one for all activations that go into it, each chosen for the least squared error among
values around three standard deviations, the latter on a text; int4 or flint4, whichever has the smaller
error. Differs: of two neighbouring outliers the larger one stays, not the first; the search for scales goes
in steps of 12.5 % over at most 64 pairs of a row; embeddings and the output projection stay as they are;
8-bit outliers are E4M3, as in the text of the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch

from twofold.errors import nearest
from twofold.models.weights import Matrix
from twofold.ops.base import Precision
from twofold.ops.formats import Format, register
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.weights.inputs import float_weight, learn_matrices
from twofold.techniques.weights.learned import Learned
from twofold.techniques.weights.linear_layers import BlockLinears
from twofold.techniques.weights.outlier_victim import (
    FLINT4,
    INT4,
    INT8,
    PairType,
    choose_type,
    in_pairs,
)
from twofold.techniques.weights.ovp_matrix import OvpMatrix

if TYPE_CHECKING:
    from twofold.devices.base import Device
    from twofold.models.transformer import Transformer

_PAPER = "arXiv:2304.07493"
_MODES: dict[str, tuple[PairType, ...]] = {
    "ant-int-flint": (INT4, FLINT4),
    "int": (INT4,),
    "flint": (FLINT4,),
}
_SAMPLE = 1 << 16
"""Most activations that the search for their scale looks at."""


@dataclass(frozen=True)
class Olive(Technique):
    """Linear layers of all blocks in outlier-victim pairs; embeddings, norms and routers stay as they are.

    wbit: bits of a weight, 4 or 8; abit: bits of the activations of these layers, 4 or 8, or 0 to leave them
    as they are; mode: the type of normal values of 4 bits, "int", "flint", or "ant-int-flint" for the better
    of both in each matrix (8 bits: always int8).
    """

    wbit: int = 4
    abit: int = 4
    mode: str = "ant-int-flint"

    info: ClassVar[Info] = Info(
        name="olive",
        title="OliVe: Accelerating Large Language Models via Hardware-friendly Outlier-Victim Pair "
        "Quantization",
        source=_PAPER,
        summary="stores weights and activations in pairs in which an outlier may take its neighbour's bits",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "speedup-over-gobo",
            "speed-up, weights and activations in 4 bits",
            (4.5, 4.5),
            "×",
            "GOBO: 3-bit weights with outliers apart, products in 16 bits",
            "BERT, BART, GPT2-XL, BLOOM-7B1, OPT-6.7B",
            "simulated Turing GPU",
            f"{_PAPER}, abstract",
            "speedup_over_gobo",
        ),
        Claim(
            "energy-over-gobo",
            "energy of GOBO over OliVe's, weights and activations in 4 bits",
            (4.0, 4.0),
            "×",
            "GOBO: 3-bit weights with outliers apart, products in 16 bits",
            "BERT, BART, GPT2-XL, BLOOM-7B1, OPT-6.7B",
            "simulated Turing GPU",
            f"{_PAPER}, abstract",
            "energy_over_gobo",
        ),
        Claim(
            "perplexity-gpt2-xl",
            "perplexity on WikiText, weights and activations in 4 bits",
            (19.11, 19.11),
            "1",
            "16 bits",
            "GPT2-XL",
            "any",
            "clevercool/ANT-Quantization, olive_quantization/llm/README.md",
            why_not="needs the model's weights and WikiText, not available offline; a comparison measures "
            "perplexity on the model that it runs",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique olive"
        for name, allowed in (("wbit", (4, 8)), ("abit", (0, 4, 8))):
            if getattr(self, name) not in allowed:
                options = ", ".join(map(str, allowed))
                raise ValueError(f"{where}: {name} must be one of {options}, not {getattr(self, name)}")
        if self.mode not in _MODES:
            raise ValueError(f"{where}: unknown mode {self.mode!r}; {nearest(self.mode, _MODES)}")

    def types(self, bits: int) -> tuple[PairType, ...]:
        """The types that pairs of numbers of `bits` bits may have."""
        return (INT8,) if bits == 8 else _MODES[self.mode]

    @property
    def needs_calibration(self) -> bool:
        """Whether scales of activations are still to be found."""
        return self.abit > 0 and self.calibration is None

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with all matrices and the scales of their inputs when `model` reads `token_ids`,
        layer by layer, each after the layers before it are rounded."""
        scheme = OlivePairs(self)

        def learn(key: str, matrix: Matrix, seen: Seen) -> OvpMatrix:
            del key
            made = scheme.pack(float_weight(matrix), matrix.out_features, matrix.in_features)
            made.activations = seen.find(self.types(self.abit))
            return made

        return self.with_calibration(learn_matrices(model, device, token_ids, Seen, learn))

    def weight_scheme(self) -> Learned:
        """Linear layers in outlier-victim pairs: as calibrated, else with activations as they are."""
        scheme = OlivePairs(self)
        return Learned(scheme, scheme.counters, self.calibration)


class Seen:
    """The activations that went into a matrix."""

    def __init__(self, in_features: int) -> None:
        del in_features
        self.parts: list[torch.Tensor] = []

    def add(self, x: torch.Tensor) -> None:
        """Take in activations [tokens, in_features], float32."""
        self.parts.append(x.reshape(1, -1))

    def find(self, kinds: tuple[PairType, ...]) -> tuple[PairType, float] | None:
        """The best type of pairs and its scale; None where nothing went in (an expert that no token
        chose)."""
        if not self.parts:
            return None
        pairs = in_pairs(torch.cat(self.parts, 1))
        sample = pairs[:, :: max(1, 2 * pairs.shape[1] // _SAMPLE)].flatten(-2)
        kind, scales = choose_type(sample, kinds, sampled=False)
        return kind, float(scales)


class OlivePairs(BlockLinears):
    """Stores the linear layers of all blocks in outlier-victim pairs.

    counters: "products": products with matrices stored this way.
    """

    def __init__(self, technique: Olive) -> None:
        self.technique = technique
        t = technique
        integers: dict[int, Precision] = {4: "int4", 8: "int8"}
        # Pairs are not to be cut: they are the blocks of the format. Scales of rows are counted by the
        # matrix.
        name, both = f"ovp{t.wbit}" + (f"-a{t.abit}" if t.abit else ""), max(t.wbit, t.abit)
        self.format = register(Format(name, t.wbit, 2, matmul=integers[both] if t.abit else None))
        self.counters = {"products": 0}

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Whether the matrix `name` is a linear layer of a block whose rows are whole pairs."""
        return in_features % 2 == 0 and super().applies(name, out_features, in_features)

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> OvpMatrix:
        """The matrix in pairs; None makes one that holds shapes only."""
        t = self.technique
        kinds, tensors = t.types(t.wbit), dict[str, torch.Tensor]()
        kind = kinds[0]
        if weight is not None:
            if not bool(torch.isfinite(weight).all()):
                raise ValueError("technique olive: weights must be finite")
            weight = weight.float()
            kind, scales = choose_type(weight, kinds)
            tensors = {"codes": kind.pack(weight, scales), "scales": scales}
        return OvpMatrix(self.format, out_features, in_features, tensors, self.counters, kind)
