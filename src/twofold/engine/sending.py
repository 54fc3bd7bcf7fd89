"""Sending: the seam of what carries caches off while a step computes them."""

from __future__ import annotations

from typing import Protocol

from twofold.engine.batch import Batch
from twofold.models.step import Written


class Sending(Protocol):
    """What is told of every batch that a runner executes (`fleet.layerwise`)."""

    def begin(self, batch: Batch) -> Written | None:
        """`batch` is about to be executed. Returns what is to be told of every layer that has stored its new
        entries, on a real device; None: nothing of it is sent."""

    def end(self) -> None:
        """What was begun is computed: returns once nothing is to be read from its blocks any more."""
