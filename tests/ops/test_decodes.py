"""Decode spans: the sums known in advance are those of the spans."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twofold.ops.attention import Span, span_pairs, total_spans
from twofold.ops.decodes import Contexts, DecodeSpans

KEYS = st.lists(st.integers(1, 5000), min_size=1, max_size=40)
WINDOW = st.none() | st.integers(1, 3000)


@given(KEYS, st.integers(0, 2000), WINDOW)
def test_totals_are_those_of_the_spans(keys: list[int], later: int, window: int | None) -> None:
    spans = DecodeSpans(Contexts(keys), later)
    listed = [Span(1, k + later) for k in keys]
    assert list(spans) == listed == [spans[i] for i in range(len(spans))]
    assert spans.totals(window) == total_spans(listed, window)
    assert spans.totals(window) == total_spans(spans, window), "a window asked for before changes nothing"


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 3000)), max_size=30), WINDOW)
def test_totals_are_sums_over_spans(pairs: list[tuple[int, int]], window: int | None) -> None:
    spans = [Span(q, q + before) for q, before in pairs]
    counted = [span_pairs(*span, window) for span in spans]
    totals = total_spans(spans, window)
    assert totals.num_seqs == len(spans)
    assert totals.queries == sum(s.queries for s in spans)
    assert totals.keys == sum(read for read, _ in counted)
    assert totals.pairs == sum(computed for _, computed in counted)
    assert totals.max_keys == max((read for read, _ in counted), default=0)
    single = [read for (read, _), s in zip(counted, spans, strict=True) if s.queries == 1]
    assert (totals.singles, totals.single_keys) == (len(single), sum(single))
