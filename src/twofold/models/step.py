"""What one forward pass is given: the tokens of a step, where they stand, and which of them want logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from twofold.ops.attention import Span, SpanTotals, total_spans


@dataclass(slots=True)
class StepInput:
    """One batch, flattened: sequence after sequence, T tokens in all.

    spans: per sequence, its new tokens and the cache entries visible to the last of them. num_logits: rows of
    logits wanted. The rest is None on modelled devices: token_ids [T], positions [T] (int64), slots [T] (flat
    cache slot of each new token), tables: per sequence, the flat slots of its visible entries in order
    [keys], rows: per sequence, its row in per-sequence stores, logit_rows [num_logits] (indices into T),
    drafts: per sequence, how many of its last new tokens are guesses that may be voided when the step is
    committed (empty: none).
    """

    spans: Sequence[Span]
    num_tokens: int
    num_logits: int
    token_ids: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    slots: torch.Tensor | None = None
    tables: Sequence[torch.Tensor] = ()
    rows: Sequence[int] = ()
    logit_rows: torch.Tensor | None = None
    drafts: Sequence[int] = ()
    _totals: dict[int | None, SpanTotals] = field(default_factory=dict)

    def totals(self, window: int | None) -> SpanTotals:
        """The sums over `spans` for a layer with that sliding window; computed once per step and window."""
        found = self._totals.get(window)
        if found is None:
            found = self._totals[window] = total_spans(self.spans, window)
        return found
