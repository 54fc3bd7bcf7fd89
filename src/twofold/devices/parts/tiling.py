"""How often operands of a product pass between a memory and buffers that are too small for both."""

from __future__ import annotations

from math import ceil


def streamed(weights: float, inputs: float, *, held: float, weights_room: float, inputs_room: float) -> float:
    """Bytes that a product of `weights` with `inputs` reads from the memory.

    Inputs of at most `held` bytes are in the buffers already. Others are read for every piece of the weights
    that has room in the buffers, or weights for every piece of the inputs, whichever is less.
    """
    if inputs <= held:
        return weights
    return min(
        weights + inputs * _pieces(weights, weights_room), inputs + weights * _pieces(inputs, inputs_room)
    )


def _pieces(nbytes: float, room: float) -> int:
    """At least one; what is off by rounding is none."""
    return max(1, ceil(nbytes / room - 1e-9))
