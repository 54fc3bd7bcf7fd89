"""Fine-grained integer and float formats: linear layers stored, and optionally multiplied, in MX, NV or
int4-group blocks.

Source: "INT v.s. FP: A Comprehensive Study of Fine-Grained Low-bit Quantization Formats", arXiv:2510.25602:
direct cast, no calibration; integers clipped symmetrically; E8M0 scales rounded up; rotation by a random
Hadamard matrix of the block's size. Differs: activations are rounded only if `activations` names a format
(the source always rounds both); their NV second-level scale is per token, not per tensor, so that batching
cannot change an output; Q, K and V form one matrix with one NV second-level scale, and so do gate and up;
training is left out. The int3-g*, int4-g* and int8-g* formats are additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.weights.block_formats import BLOCK_FORMATS, BlockFormat, block_format
from twofold.techniques.weights.block_matrix import BlockScheme

_PAPER = "arXiv:2510.25602v1"
_TENSORS = "Llama-3.1-8B: weights, activations and gradients of its 224 linear layers"
_NOT_HERE = "needs the model's weights; a comparison measures the same divergence on the model that it runs"


def _qsnr_claim(setup: str, figure: str, claimed: float, baseline: str) -> Claim:
    key, source = setup.replace("_", "-"), f"{_PAPER}, figure 4"
    claimed = round(claimed, 2)  # the source's digits
    return Claim(key, figure, (claimed, claimed), "dB", baseline, _TENSORS, "any", source, setup)


def _kl_claim(key: str, formats: str, claimed: float, baseline: str) -> Claim:
    figure = f"KL divergence from BF16 on WikiText-2 (top 25 logits, weights and activations), {formats}"
    source = f"{_PAPER}, table 13"
    return Claim(
        key, figure, (claimed, claimed), "×", baseline, "Llama-3.1-8B", "any", source, why_not=_NOT_HERE
    )


def _crossover_claim(integer: str, floating: str, claimed: float) -> Claim:
    return Claim(
        f"crossover-{integer}-{floating}",
        f"crest factor below which {integer} keeps more signal than {floating}",
        (claimed, claimed),
        "max/rms",
        floating,
        "Gaussian blocks, theorems 1 and 2",
        "any",
        f"{_PAPER}, section 4.2",
        f"crossover_{integer}",
    )


@dataclass(frozen=True)
class IntVsFp(Technique):
    """Linear layers of all blocks in `format`; embeddings, norms and routers stay as they are.

    rotate: rotate weights (once) and activations (each time) by a random Hadamard matrix of the block's size.
    activations: MX or NV format to whose values activations are rounded before each product, or None.
    lm_head: store the output projection in the format too.
    """

    format: str = "mxint8"
    rotate: bool = False
    activations: str | None = None
    lm_head: bool = False

    info: ClassVar[Info] = Info(
        name="int-vs-fp",
        title="INT v.s. FP: A Comprehensive Study of Fine-Grained Low-bit Quantization Formats",
        source="arXiv:2510.25602",
        summary="stores linear layers in blocks of 4-, 6- or 8-bit integers or floats that share a scale",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _qsnr_claim("mxint8_over_mxfp8", "QSNR, mxint8 less mxfp8", 40.35 - 31.50, "mxfp8"),
        _qsnr_claim("mxint6_over_mxfp6", "QSNR, mxint6 less mxfp6", 28.57 - 30.39, "mxfp6"),
        _qsnr_claim("mxint4_over_mxfp4", "QSNR, mxint4 less mxfp4", 15.89 - 17.98, "mxfp4"),
        _qsnr_claim("nvint4_over_nvfp4", "QSNR, nvint4 less nvfp4", 20.55 - 20.60, "nvfp4"),
        _qsnr_claim(
            "nvint4_over_nvfp4_rotated",
            "QSNR, nvint4 less nvfp4, both rotated",
            21.65 - 20.35,
            "nvfp4, rotated",
        ),
        _crossover_claim("mxint8", "mxfp8", 7.55),
        _crossover_claim("mxint6", "mxfp6", 1.96),
        _crossover_claim("mxint4", "mxfp4", 2.04),
        _crossover_claim("nvint4", "nvfp4", 2.39),
        _kl_claim("mxint8-over-mxfp8-kl", "mxfp8 over mxint8", 359 / 82, "mxfp8"),
        _kl_claim(
            "nvint4-over-nvfp4-kl-rotated", "nvfp4 over nvint4, rotated", 4752 / 3609, "nvfp4, rotated"
        ),
        Claim(
            "mxint8-energy",
            "energy of the matrix unit at equal throughput, mxint8 over mxfp8",
            (0.63, 0.63),
            "×",
            "mxfp8",
            "gate-level cost model",
            "TSMC FinFET standard cells",
            f"{_PAPER}, table 5",
            why_not="rests on the energy of a foundry's cells, which the source does not publish",
        ),
    )

    def __post_init__(self) -> None:
        self._check("format", self.format)
        if (
            self.activations is not None
            and self._check("activations", self.activations).format.matmul is None
        ):
            allowed = ", ".join(name for name, f in BLOCK_FORMATS.items() if f.format.matmul is not None)
            raise ValueError(
                f"technique {self.info.name}: activations cannot be rounded to {self.activations}, a format "
                f"for weights; use one of {allowed}"
            )

    def _check(self, parameter: str, name: str) -> BlockFormat:
        try:
            return block_format(name)
        except ValueError as error:
            raise ValueError(f"technique {self.info.name}: {parameter}: {error}") from None

    def weight_scheme(self) -> BlockScheme:
        """Linear layers in the format, rotated and with rounded activations where asked for."""
        return BlockScheme(
            block_format(self.format),
            rotate=self.rotate,
            activations=None if self.activations is None else block_format(self.activations),
            lm_head=self.lm_head,
        )
