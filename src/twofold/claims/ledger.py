"""What a reproduced claim comes out as."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a claim's setup, in the claim's unit.

    ours: (low, high), equal where there is no interval; why: what explains the distance from the claimed
    figure; how: what was computed or measured, on what.
    """

    ours: tuple[float, float]
    why: str
    how: str
