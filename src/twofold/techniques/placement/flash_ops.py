"""The ops of an MLP whose neurons lie on disk: fetching some of them, and computing with those that are
there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from twofold.kernels.registry import reference
from twofold.ops.base import DEVICE, DISK, Cost, Op, Precision, Traffic

STORED_BYTES = 2
"""Bytes of an element on disk and in the window: float16."""


@dataclass(frozen=True, slots=True)
class FetchNeurons(Op):
    """Read `neurons` of an MLP from the disk into the device's memory: of each the row of the up projection
    and the column of the down projection, `width` elements each, which lie side by side."""

    kind: ClassVar[str] = "fetch"
    neurons: int
    width: int

    def cost(self) -> Cost:
        """Read there, written here."""
        nbytes = 2 * self.neurons * self.width * STORED_BYTES
        return Cost(traffic=(Traffic("weights", nbytes, 0, DISK), Traffic("weights", 0, nbytes, DEVICE)))


@dataclass(frozen=True, slots=True)
class NeuronMLP(Op):
    """Up projection, activation and down projection of `tokens` tokens with `neurons` of the MLP's
    neurons."""

    kind: ClassVar[str] = "linear"
    tokens: int
    width: int
    neurons: int
    compute: Precision
    act_bytes: int

    def cost(self) -> Cost:
        """Two products with the neurons' rows; about 4 operations for each activation."""
        rows = self.neurons * self.width
        return Cost(
            flop=4.0 * self.tokens * rows,
            vector_flop=4.0 * self.tokens * self.neurons + 2.0 * rows,
            precision=self.compute,
            traffic=(
                Traffic("weights", 2 * rows * STORED_BYTES),
                Traffic(
                    "activations",
                    self.tokens * (self.width + self.neurons) * self.act_bytes,
                    self.tokens * self.width * self.act_bytes,
                ),
            ),
        )


@reference(FetchNeurons)
def fetch_neurons(op: FetchNeurons, read: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `read` returns: the rows of the neurons, float16 [neurons, 2, width]."""
    del op
    return read()


@reference(NeuronMLP)
def neuron_mlp(
    op: NeuronMLP,
    x: torch.Tensor,
    rows: torch.Tensor,
    hidden: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """x [T, width] with `rows` [neurons, 2, width] to [T, width]: `hidden` makes the activations [T, neurons]
    out of the up projection's output of that shape."""
    del op
    up, down = rows.to(x.dtype).unbind(1)
    return hidden(x @ up.T) @ down
