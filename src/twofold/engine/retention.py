"""The retention seam: how many cache entries of a sequence stay.

    Scheduler.update ─▶ kept() ─▶ num_slots shrinks, blocks are freed, a Compaction is pending
    Scheduler.schedule ─▶ Batch.compactions ─▶ Runner: first of all, before anything is copied or written

Numbers follow from lengths alone, so that `run` and `predict` agree and the scheduler knows them at once.
Which entries stay is chosen on the device, when the compaction is executed (`models.retaining`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twofold.ops.compaction import Observed

if TYPE_CHECKING:
    from twofold.models.retaining import Retainer


class Retention(Protocol):
    """How much of a sequence's cache stays. Technique seam.

    counters: what was done so far, by name; the runner counts "compactions" and "dropped" (entries, of one
    layer).
    Lengths are those of one sequence: `slots` entries are cached, of the `computed` tokens that were; its
    context (prompt) is `context` tokens long.
    """

    counters: dict[str, int]

    def kept(self, slots: int, computed: int, context: int) -> int:
        """How many of `slots` entries stay after a step: `slots` where nothing is to be dropped yet."""

    def most(self, tokens: int, context: int) -> int:
        """The most entries that stay after any step in which a sequence comes to hold up to `tokens`."""

    def observed(self, start: int, queries: int, context: int) -> Observed | None:
        """Which of the `queries` tokens at positions `start` … are watched for what they attend to; None:
        none of them."""

    def retainer(self, layer: int) -> Retainer:
        """What chooses the entries of layer number `layer` that stay."""


def counters() -> dict[str, int]:
    """What the runner counts, at zero."""
    return {"compactions": 0, "dropped": 0}
