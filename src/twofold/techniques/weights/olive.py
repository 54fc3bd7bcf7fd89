"""OliVe: outliers of weights and activations kept in 4 (or 8) bits, each in its neighbour's place.

Source: "OliVe: Accelerating Large Language Models via Hardware-friendly Outlier-Victim Pair Quantization",
arXiv:2304.07493, and its code (clevercool/ANT-Quantization): types and pairs as in `outlier_victim`; a scale
per row of a matrix and one for all activations that go into it, each found by its squared error around three
standard deviations, the latter on a text; int4 or flint4, whichever has the smaller error. Differs: of two
neighbouring outliers the larger stays, not the first; the search for scales tries every 12.5 % on at most 64
pairs of a row; embeddings and the output projection stay as they are; 8-bit outliers are E4M3 as in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch

from twofold.errors import nearest
from twofold.kernels.cpu.pairs import PairStrips, can_hold, pack
from twofold.models.weights import Matrix
from twofold.ops.base import Precision
from twofold.ops.formats import Format, register
from twofold.ops.linear import Linear
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.weights.bit_planes import is_block_linear
from twofold.techniques.weights.inputs import float_weight, learn_matrices
from twofold.techniques.weights.outlier_victim import (
    FLINT4,
    INT4,
    INT8,
    PairType,
    choose_type,
    in_pairs,
    round_to_pairs,
)

if TYPE_CHECKING:
    from twofold.devices.base import Device
    from twofold.models.transformer import Transformer

_PAPER = "arXiv:2304.07493"
_MODES: dict[str, tuple[PairType, ...]] = {
    "ant-int-flint": (INT4, FLINT4),
    "int": (INT4,),
    "flint": (FLINT4,),
}
_ROW_SCALE_BITS = 32
_SAMPLE = 1 << 16
"""Activations that the search for their scale looks at."""


@dataclass(frozen=True)
class Olive(Technique):
    """Linear layers of all blocks in outlier-victim pairs; embeddings, norms and routers stay as they are.

    wbit: bits of a weight, 4 or 8; abit: of the activations of these layers, 4 or 8, or 0 to keep them; mode:
    normal values of 4 bits: "int", "flint", or "ant-int-flint" for the better of both, matrix by matrix (8
    bits: always int8).
    """

    wbit: int = 4
    abit: int = 4
    mode: str = "ant-int-flint"

    info: ClassVar[Info] = Info(
        name="olive",
        title="OliVe: Accelerating Large Language Models via Hardware-friendly Outlier-Victim Pair "
        "Quantization",
        source=_PAPER,
        summary="stores weights in pairs of which an outlier takes the other's place; activations too",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
        reasons={"weight-format": "a matrix has one stored format: name one technique that changes it"},
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
        """The types of pairs that numbers of so many bits may have."""
        return (INT8,) if bits == 8 else _MODES[self.mode]

    @property
    def needs_calibration(self) -> bool:
        """Whether scales of activations are still to be found."""
        return self.abit > 0 and self.learned is None

    @property
    def learned(self) -> dict[str, OvpMatrix] | None:
        """The matrices that calibration made, by key; None where there was none."""
        found: dict[str, OvpMatrix] | None = self.__dict__.get("_learned")
        return found

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with all matrices, and the scales of what goes into them when `model` reads
        `token_ids`, layer by layer, each behind those that are rounded already."""
        scheme = OlivePairs(self)

        def learn(key: str, matrix: Matrix, seen: Seen) -> Matrix:
            del key
            made = scheme.pack(float_weight(matrix), matrix.out_features, matrix.in_features)
            made.activations = seen.find(self.types(self.abit))
            return made

        made = learn_matrices(model, device, token_ids, Seen, learn)
        learned = replace(self)
        # Learned, not a parameter.
        object.__setattr__(learned, "_learned", {k: m for k, m in made.items() if isinstance(m, OvpMatrix)})
        return learned

    def weight_scheme(self) -> OlivePairs:
        """Linear layers in outlier-victim pairs."""
        return OlivePairs(self)


class Seen:
    """Evenly spaced pairs of what goes into a matrix."""

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


class OlivePairs:
    """Stores the linear layers of all blocks in outlier-victim pairs.

    counters: "products": how often a matrix stored so was multiplied.
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
        del out_features
        return in_features % 2 == 0 and is_block_linear(name)

    def learned(self, key: str) -> OvpMatrix | None:
        """The matrix that calibration made under that key."""
        found = (self.technique.learned or {}).get(key)
        return None if found is None else found.counted(self.counters)

    def vector(self, name: str) -> torch.Tensor | None:
        """None: vectors stay."""
        del name
        return None

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


class OvpMatrix(Matrix):
    """Codes [out, bytes] and scales float32 [out], or after `interleave` strips of the codes and the scales;
    no float copy is kept.

    kind: the type of its pairs; activations: the type and the scale that activations are rounded to, or None.
    """

    def __init__(
        self,
        fmt: Format,
        out_features: int,
        in_features: int,
        tensors: dict[str, torch.Tensor],
        counters: dict[str, int],
        kind: PairType,
        activations: tuple[PairType, float] | None = None,
    ) -> None:
        super().__init__(fmt, out_features, in_features, tensors)
        self.counters, self.kind, self.activations = counters, kind, activations

    def counted(self, counters: dict[str, int]) -> OvpMatrix:
        """The same matrix under other counters, in the same memory."""
        mine = self.tensors
        return OvpMatrix(
            self.format, self.out_features, self.in_features, mine, counters, self.kind, self.activations
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the scales."""
        return super().nbytes + self.out_features * _ROW_SCALE_BITS // 8

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The stored values, [out, in]."""
        if self.strips is not None:
            return self.strips.widen().to(dtype)
        return (self.kind.decode(self.tensors["codes"]) * self.tensors["scales"][:, None]).to(dtype)

    def interleave(self) -> None:
        """Codes become strips, `packed`, where native kernels can multiply these."""
        held = self.tensors
        if not held or self.strips is not None or held["scales"].device.type != "cpu":
            return
        if not can_hold(self.out_features, self.in_features):
            return
        packed = pack(self.kind.name, held["codes"], self.out_features, self.in_features)
        self.tensors = {"packed": packed, "scales": held["scales"]}
        rounding = None if self.activations is None else (self.activations[0].name, self.activations[1])
        self.strips = PairStrips(
            self.kind.name, self.out_features, self.in_features, packed, held["scales"], rounding
        )

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [tokens, in] rounded to pairs, where activations are."""
        return x if self.activations is None else round_to_pairs(x, *self.activations).to(x.dtype)

    def op(self, tokens: int, activations: Precision) -> Linear:
        """The op that multiplies `tokens` rows by this matrix; counted."""
        self.counters["products"] += 1
        return super().op(tokens, activations)

    def compute(self, activations: Precision) -> Precision:
        """The wider of both sides' integers, or that of the activations where these are kept."""
        return self.format.matmul or activations

    def vector_flop(self, tokens: int) -> int:
        """Rounding the activations (magnitude, divide, round, multiply), or widening: a value and a scale."""
        if self.format.matmul is not None:
            return 4 * tokens * self.in_features
        return 2 * self.out_features * self.in_features
