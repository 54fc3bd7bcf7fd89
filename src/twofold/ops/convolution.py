"""Convolutions of images: no model here has one, but machines that are compared on networks of them do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.ops.base import Cost, Op, Precision, Traffic


@dataclass(frozen=True, slots=True)
class Conv2d(Op):
    """y[batch, out_channels, H', W'] of x[batch, in_channels, height, width], zero-padded by `padding`.

    kernel: height and width of a filter; groups: of channels that see each other alone (all of them:
    depthwise); weight_bytes: stored bytes of all filters [out_channels, in_channels / groups, kernel,
    kernel], in `format`.
    """

    kind: ClassVar[str] = "convolution"
    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    format: str
    weight_bytes: int
    compute: Precision
    act_bytes: int
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def __post_init__(self) -> None:
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"a convolution of {self.in_channels} to {self.out_channels} channels cannot have "
                f"{self.groups} groups: both must be multiples of it"
            )

    @property
    def out_height(self) -> int:
        """Rows of the result."""
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Columns of the result."""
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates; those with padding count."""
        outputs = self.batch * self.out_channels * self.out_height * self.out_width
        return outputs * self.in_channels // self.groups * self.kernel**2

    def cost(self) -> Cost:
        """Two FLOP for each multiply-accumulate; filters, inputs and outputs are moved once."""
        inputs = self.batch * self.in_channels * self.height * self.width
        outputs = self.batch * self.out_channels * self.out_height * self.out_width
        return Cost(
            flop=2.0 * self.macs,
            precision=self.compute,
            traffic=(
                Traffic("weights", self.weight_bytes),
                Traffic("activations", inputs * self.act_bytes, outputs * self.act_bytes),
            ),
        )
