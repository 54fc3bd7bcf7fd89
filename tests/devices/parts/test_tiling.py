"""Operands that pass more than once: against loops that read piece by piece."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twofold.devices.parts.tiling import streamed

sizes = st.integers(1, 5000)


def looped(outer: int, inner: int, room: int) -> int:
    """Bytes read by the two nested loops: a piece of one operand, then all of the other past it."""
    read = 0
    for start in range(0, outer, room):
        read += min(room, outer - start) + inner
    return read


@given(weights=sizes, inputs=sizes, held=sizes, weights_room=sizes, inputs_room=sizes)
def test_the_better_order_of_loops_is_read(
    weights: int, inputs: int, held: int, weights_room: int, inputs_room: int
) -> None:
    """What the loops themselves read; nothing of the inputs where they are held."""
    read = streamed(weights, inputs, held=held, weights_room=weights_room, inputs_room=inputs_room)
    both = looped(weights, inputs, weights_room), looped(inputs, weights, inputs_room)
    assert read == (weights if inputs <= held else min(both))
