"""Weight matrices stored in a block format, perhaps rotated, their activations perhaps rounded likewise.

Native CPU kernels multiply the integer and 4-bit float formats as they are stored: as integers where
activations are rounded to MX integers, else in float32. Matrices in fp8 and fp6, and those whose rows do not
fill strips of 16 (or columns not blocks of 32), are widened for each product by the reference kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from twofold.kernels.cpu.strips import Rounding, Strips, TokenRounding, can_hold, pack
from twofold.ops.base import Precision
from twofold.ops.formats import Format
from twofold.techniques.weights.block_formats import BlockFormat
from twofold.techniques.weights.counted import CountedMatrix
from twofold.techniques.weights.hadamard import rotate, rotation_flop, signs
from twofold.techniques.weights.linear_layers import BlockLinears

# Widths of the precisions of integer and of float matrix units, narrow to wide.
_INTEGER: dict[Precision, int] = {"int4": 4, "int8": 8}
_FLOAT: dict[Precision, int] = {"fp4": 4, "fp6": 6, "fp8": 8}


class ActivationFormat(Protocol):
    """What activations are rounded to before a product."""

    @property
    def format(self) -> Format:
        """Bits, and the precision of products."""

    @property
    def rounding(self) -> Rounding | TokenRounding:
        """The same for native kernels."""

    def round(self, x: torch.Tensor, *, per_row: bool = False) -> torch.Tensor:
        """`x` [..., cols] rounded; per_row: no scale is shared by several rows."""


class BlockMatrix(CountedMatrix):
    """Packed codes and scales, or after `interleave` strips of both; no float copy is kept.

    rotation: size of the Hadamard blocks by which the stored matrix and the activations are rotated (0 = not
    at all), so that `widen` returns the rotated matrix: multiply it with what `prepare` returns. activations:
    the format to whose values activations are rounded before the product, or None.
    """

    def __init__(
        self,
        fmt: BlockFormat,
        out_features: int,
        in_features: int,
        tensors: Mapping[str, torch.Tensor],
        rotation: int = 0,
        activations: ActivationFormat | None = None,
        counters: dict[str, int] | None = None,
    ) -> None:
        super().__init__(fmt.format, out_features, in_features, tensors)
        self.counters = {"products": 0} if counters is None else counters
        self.block_format = fmt
        self.rotation = rotation
        self.activations = activations

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The stored (perhaps rotated) values, [out_features, in_features]; exact in float32."""
        if self.strips is not None:
            return self.strips.widen().to(dtype)
        return self.block_format.decode(self.tensors, self.in_features).to(dtype)

    def interleave(self) -> None:
        """Codes and scales become strips, `packed`, where native kernels can multiply these."""
        held, name = self.tensors, self.block_format.name
        if not held or self.strips is not None or held["codes"].device.type != "cpu":
            return
        if not can_hold(name, self.out_features, self.in_features, self.rotation):
            return
        packed = pack(name, held["codes"], held["scales"], self.out_features, self.in_features)
        second = held.get("tensor_scale")
        self.tensors = {"packed": packed} if second is None else {"packed": packed, "tensor_scale": second}
        self.strips = Strips(
            name,
            self.out_features,
            self.in_features,
            packed,
            1.0 if second is None else second.item(),
            signs(self.rotation, packed.device) if self.rotation else None,
            None if self.activations is None else self.activations.rounding,
        )

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [tokens, in_features] rotated as the weights are, then rounded to the activations' format."""
        if not self.rotation and self.activations is None:
            return x
        y = x.float()
        if self.rotation:
            y = rotate(y, self.rotation)
        if self.activations is not None:
            # One second-level scale a token: a request's output must not depend on what it is batched with.
            y = self.activations.round(y, per_row=True)
        return y.to(x.dtype)

    def compute(self, activations: Precision) -> Precision:
        """The wider of both formats' precisions where one kind of unit takes both, else `activations`."""
        if self.activations is None:
            return activations
        pair = [p for p in (self.format.matmul, self.activations.format.matmul) if p is not None]
        for family in (_INTEGER, _FLOAT):
            if len(pair) == 2 and all(p in family for p in pair):
                return max(pair, key=family.__getitem__)
        return activations

    def vector_flop(self, tokens: int) -> int:
        """Elementwise operations beside the product.

        Weights: two each (code to value, scale), or, where a unit multiplies the codes themselves, two for
        each block's partial sum (scale, add). Activations: the rotation, and four per element to round it
        (magnitude, divide, round, multiply).
        """
        flop = tokens * rotation_flop(self.in_features, self.rotation) if self.rotation else 0
        if self.activations is None:
            return flop + 2 * self.out_features * self.in_features
        flop += 4 * tokens * self.in_features
        if self.compute("fp32") == "fp32":
            return flop + 2 * self.out_features * self.in_features
        return flop + 2 * tokens * self.out_features * -(-self.in_features // self.block_format.block)


class BlockScheme(BlockLinears):
    """Stores the linear layers of all blocks, and the output projection if `lm_head`, in the format `fmt`.

    counters: "products": products with matrices stored by this scheme.
    """

    def __init__(
        self,
        fmt: BlockFormat,
        *,
        rotate: bool = False,
        activations: BlockFormat | None = None,
        lm_head: bool = False,
    ) -> None:
        self.block_format = fmt
        self.rotation = fmt.block if rotate else 0
        self.activations = activations
        self.lm_head = lm_head
        self.counters = {"products": 0}

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> BlockMatrix:
        """The matrix in the format, rotated first if asked; None makes one that holds shapes only."""
        tensors = {}
        if weight is not None:
            weight = weight.float()
            tensors = self.block_format.encode(rotate(weight, self.rotation) if self.rotation else weight)
        return BlockMatrix(
            self.block_format,
            out_features,
            in_features,
            tensors,
            self.rotation,
            self.activations,
            self.counters,
        )
