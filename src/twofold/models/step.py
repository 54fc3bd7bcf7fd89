"""What one forward pass is given: the tokens of a step, where they stand, and which of them want logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from twofold.ops.attention import Span, SpanTotals, total_spans
from twofold.ops.compaction import Observed
from twofold.ops.decodes import DecodeSpans

if TYPE_CHECKING:
    from twofold.models.cache import CacheLayer
    from twofold.models.rope import CosSin, RotaryTables


Written = Callable[["CacheLayer"], None]
"""What is told of each layer, in order, whose new entries are stored and whose attention is computed."""


class StepInput:
    """One batch, flattened: sequence after sequence, T tokens in all.

    spans: per sequence, its new tokens and the cache entries visible to the last of them. num_logits: rows of
    logits wanted. The rest is None or empty on modelled devices: token_ids [T], positions [T] (int64), slots
    [T] (flat cache slot of each new token), rows: per sequence, its row in per-sequence stores, logit_rows
    [num_logits] (indices into T), drafts: per sequence, how many of its last new tokens are guesses that may
    be voided when the step is committed (empty: none), block_tables: per sequence, the cache blocks of
    `block_size` tokens that hold its entries in order, hidden_rows (indices into T): whose last hidden states
    are wanted, which the pass leaves in `hidden` [len(hidden_rows), width].

    observed: per sequence, those of its new tokens whose attention counts for the scores of its cache
    entries, None where there are none (empty: nowhere).

    written: on a real device, what wants to know of each layer as its entries are stored (None: nothing).

    tables may be given instead of block_tables: per sequence, the flat slots of its visible entries. starts:
    where these follow each other, per sequence, the first of them (see `move_to`); None where they need not.
    """

    __slots__ = (
        "_memo",
        "_spans_native",
        "_tables",
        "_totals",
        "block_size",
        "block_tables",
        "drafts",
        "hidden",
        "hidden_rows",
        "logit_rows",
        "num_logits",
        "num_tokens",
        "observed",
        "positions",
        "rows",
        "slots",
        "spans",
        "starts",
        "token_ids",
        "written",
    )

    def __init__(
        self,
        spans: Sequence[Span],
        num_tokens: int,
        num_logits: int,
        token_ids: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        slots: torch.Tensor | None = None,
        tables: Sequence[torch.Tensor] | None = None,
        rows: Sequence[int] = (),
        logit_rows: torch.Tensor | None = None,
        drafts: Sequence[int] = (),
        block_tables: Sequence[Sequence[int]] = (),
        block_size: int = 0,
        hidden_rows: torch.Tensor | None = None,
        observed: Sequence[Observed | None] = (),
    ) -> None:
        self.spans = spans
        self.num_tokens = num_tokens
        self.num_logits = num_logits
        self.token_ids = token_ids
        self.positions = positions
        self.slots = slots
        self.rows = rows
        self.logit_rows = logit_rows
        self.drafts = drafts
        self.block_tables = block_tables
        self.block_size = block_size
        self.hidden_rows = hidden_rows
        self.observed = observed
        self.hidden: torch.Tensor | None = None
        self.starts: Sequence[int] | None = None
        self.written: Written | None = None
        self._tables = tables
        self._totals: dict[int | None, SpanTotals] = {}
        self._memo: dict[int, CosSin] = {}
        self._spans_native: Any = None

    @property
    def tables(self) -> Sequence[torch.Tensor]:
        """Per sequence, the flat slots of its visible entries in order [keys]; made from the block tables
        when first asked for, since native kernels read those themselves."""
        if self._tables is None:
            where = None if self.token_ids is None else self.token_ids.device
            self._tables = [
                flat_slots(table, self.block_size, span.keys, where)
                for table, span in zip(self.block_tables, self.spans, strict=True)
            ]
        return self._tables

    def move_to(
        self, slots: torch.Tensor, block_tables: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> None:
        """Address entries by contiguous ranges: `starts` per sequence, and what follows from them."""
        self.slots, self.block_tables, self.starts = slots, block_tables, starts
        self._tables = None

    def totals(self, window: int | None) -> SpanTotals:
        """The sums over `spans` for a layer with that sliding window; computed once per step and window."""
        found = self._totals.get(window)
        if found is None:
            spans = self.spans
            found = spans.totals(window) if isinstance(spans, DecodeSpans) else total_spans(spans, window)
            self._totals[window] = found
        return found

    def parts(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each sequence: its row, its first new token, and its entries before the step and after it."""
        start = 0
        for row, (queries, keys) in zip(self.rows, self.spans, strict=True):
            yield row, start, keys - queries, keys
            start += queries

    def rotation(self, rotary: RotaryTables, *, local: bool) -> CosSin:
        """cos and sin of the step's positions, [T, 1, rotated]; gathered once per step and table."""
        cos, sin = rotary.table(local=local)
        found = self._memo.get(id(cos))
        if found is None:
            assert self.positions is not None
            found = cos.index_select(0, self.positions), sin.index_select(0, self.positions)
            self._memo[id(cos)] = found
        return found

    def spans_native(self) -> Any:
        """The step's geometry for native attention: a `native.Spans` of new tokens, visible entries and block
        table per sequence, made when first asked for. None where the step has no block tables or the native
        kernels are not installed."""
        if self._spans_native is None and self.block_tables:
            from twofold.kernels.cpu import native

            extension = native()
            if extension is None:
                return None
            self._spans_native = extension.Spans()
            self._fill_spans()
        return self._spans_native

    def _fill_spans(self) -> None:
        queries, keys = [s.queries for s in self.spans], [s.keys for s in self.spans]
        tables, rows, drafts = list(self.block_tables), list(self.rows), list(self.drafts)
        self._spans_native.set(queries, keys, tables, self.block_size, rows, drafts)

    def refresh(self, other: StepInput) -> None:
        """Become `other`, a step of as many tokens and logits, without moving any tensor: what was recorded
        on this step can then run again."""
        assert (self.num_tokens, self.num_logits) == (other.num_tokens, other.num_logits)
        for name in ("token_ids", "positions", "slots", "logit_rows"):
            mine, theirs = getattr(self, name), getattr(other, name)
            assert (mine is None) == (theirs is None), f"{name} came or went"
            if mine is not None:
                mine.copy_(theirs)
        self.spans, self.rows, self.drafts = other.spans, other.rows, other.drafts
        self.block_tables, self.block_size = other.block_tables, other.block_size
        self.observed, self.written = other.observed, other.written
        self._tables, self.starts = other._tables, other.starts
        self._totals = {}
        self._memo.clear()
        if self._spans_native is not None:
            self._fill_spans()

    def static_copy(self) -> StepInput:
        """This step in tensors of its own, which `refresh` fills anew."""

        def own(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.clone()

        copy = StepInput(
            self.spans,
            self.num_tokens,
            self.num_logits,
            own(self.token_ids),
            own(self.positions),
            own(self.slots),
            self._tables,
            self.rows,
            own(self.logit_rows),
            self.drafts,
            self.block_tables,
            self.block_size,
            observed=self.observed,
        )
        copy.starts, copy.written = self.starts, self.written
        return copy


def flat_slots(
    table: Sequence[int], block_size: int, count: int, where: torch.device | None = None
) -> torch.Tensor:
    """Flat cache slots 0 … count - 1 of a sequence whose entries lie in the blocks `table`: int64 [count]."""
    blocks = torch.tensor(table, device=where)
    return (blocks[:, None] * block_size + torch.arange(block_size, device=where)).flatten()[:count]
