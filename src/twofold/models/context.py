"""What every sublayer is given beside its input: the device, the batch, the tables of rotations.

On a modelled device the forward pass runs with None in place of every tensor: `Maybe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from twofold.devices.base import Device
from twofold.models.parallel import Parallel
from twofold.models.rope import RotaryTables
from twofold.models.step import StepInput
from twofold.ops import AllReduce

Maybe = torch.Tensor | None


@dataclass(slots=True)
class NormWeights:
    """Weight and, for LayerNorm, bias: [width] each; None on modelled devices."""

    weight: Maybe = None
    bias: Maybe = None


class RowTable(Protocol):
    """An embedding table that is stored packed."""

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` [T], widened: [T, width]."""


@dataclass(slots=True)
class Context:
    """What every sublayer needs of the step: the device, the batch and the model's rotary tables."""

    device: Device
    step: StepInput
    rotary: RotaryTables | None = None


def all_reduce(tokens: int, width_bytes: int, parallel: Parallel) -> AllReduce | None:
    """The sum over a tensor-parallel group after a row-cut product, or None on one device."""
    return AllReduce(tokens * width_bytes, parallel.tp, "tp") if parallel.tp > 1 else None
