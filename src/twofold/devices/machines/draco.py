"""DRACO: networks changed so that layers of little data reuse fill a 64 x 64 array.

Source: Jha et al., "DRACO: co-optimizing hardware utilization, and performance of DNNs on systolic
accelerator" (arXiv:2006.15103). A depthwise convolution leaves a row-stationary array almost idle, since each
channel is a group of its own and only channels of one group share a pass. DRACO changes the network, not the
array: groups of G channels instead of one, which multiplies a layer's work by G and what fits into a pass by
up to G^2. The network is trained anew; what it loses in accuracy is not modelled here.

The array is that of `row-stationary`; a convolution with fewer than `channels` in a group is charged as the
one that would stand in its place. Ops of language models are charged as they are: none has such groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from twofold.devices.machines.row_stationary import SOURCES, RowStationaryArray, RowStationaryFigures
from twofold.devices.parts.row_stationary import Pass
from twofold.devices.parts.work import Work
from twofold.ops import Conv2d


@dataclass(frozen=True, slots=True)
class DracoFigures(RowStationaryFigures):
    """channels: of a group at least, the source's G."""

    channels: int = 4


def _divides(op: Conv2d, channels: int) -> bool:
    """Whether `op` can have groups of so many channels."""
    return op.in_channels % channels == 0 and op.out_channels % (op.in_channels // channels) == 0


class Draco(RowStationaryArray):
    """The modelled machine."""

    name = "draco"
    title = "DRACO: networks with wider groups on a 64 x 64 row-stationary array"
    source = "DRACO, arXiv:2006.15103, by its authors' simulator"
    sources = SOURCES | {
        "channels": "assumption: MobileNetV1 takes the least time with groups of four channels; the source's "
        "choice could not be read"
    }

    figures: DracoFigures

    def __init__(self, figures: DracoFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or DracoFigures(), tp=tp)

    def changed(self, op: Conv2d) -> Conv2d:
        """The convolution that stands in the place of `op`: the narrowest groups that are wide enough."""
        if op.in_channels // op.groups >= self.figures.channels:
            return op
        wide = range(self.figures.channels, op.in_channels)
        channels = next((c for c in wide if _divides(op, c)), op.in_channels)
        groups = op.in_channels // channels
        return replace(op, groups=groups, weight_bytes=op.weight_bytes * op.groups // groups)

    def convolution(self, op: Conv2d) -> Work:
        """Of the changed network."""
        return super().convolution(self.changed(op))

    def mapped(self, op: Conv2d) -> Pass:
        """Of the changed network."""
        return super().mapped(self.changed(op))


MACHINE = Draco
