"""The bookkeeping of mapped blocks against a plain model of what should be where."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.models.cache import CacheSize
from twofold.techniques.placement.page_map import PageMap, Run, fit_factor

PAGES, BYTES = 6, 6 * 4096


def make(rows: int = 3) -> PageMap:
    pages = PageMap()
    pages.begin(CacheSize(20, 32, rows), PAGES, BYTES)
    return pages


def test_a_sequence_grows_by_what_is_missing() -> None:
    pages = make()
    assert pages.place(0, [4, 5, 9], 3) == ([Run(0, 0, 4, 2), Run(0, 2, 9, 1)], [])
    assert pages.place(0, [4, 5, 9], 3) == ([], [])
    assert pages.place(0, [4, 5, 9, 10], 3) == ([], [Run(0, 3, 10, 1)])
    assert pages.counters["pages_mapped"] == 4 * PAGES
    assert pages.counters["pages_mapped_ahead"] == PAGES
    assert pages.counters["bytes_mapped"] == pages.counters["resident_bytes"] == 4 * BYTES


def test_what_a_finished_sequence_left_is_found_by_the_next() -> None:
    pages = make()
    pages.place(1, [3, 2], 2)
    pages.release(1)
    assert pages.held(1) == []
    assert pages.stale_rows() == [1]
    assert pages.place(1, [3, 7], 2) == ([Run(1, 1, 7, 1)], [])
    assert pages.counters["pages_reused"] == PAGES
    assert pages.counters["pages_unmapped"] == PAGES
    assert pages.stale_rows() == []


def test_a_common_prefix_is_shared() -> None:
    pages = make()
    pages.place(0, [1, 2, 3], 3)
    now, _ = pages.place(1, [1, 2, 6], 3)
    assert now == [Run(1, 0, 1, 2), Run(1, 2, 6, 1)]
    assert pages.counters["pages_shared"] == 2 * PAGES
    assert pages.counters["resident_bytes"] == 4 * BYTES


def test_memory_is_given_back_in_runs() -> None:
    pages = make()
    pages.place(0, [1, 2, 3, 8], 4)
    pages.release(0)
    assert pages.clear(0) == 4
    given_back = pages.give_back([8, 2, 1, 15])
    assert [(run.block, run.length) for run in given_back] == [(1, 2), (8, 1)]
    assert pages.counters["resident_bytes"] == BYTES


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 19), max_size=6, unique=True)), max_size=20)
)
def test_rows_show_what_the_tables_say(steps: list[tuple[int, list[int]]]) -> None:
    pages, shown, held = make(), {}, {0: [], 1: [], 2: []}
    for row, table in steps:
        if not table:
            pages.release(row)
            held[row] = []
            continue
        now, ahead = pages.place(row, table, len(table))
        assert not ahead
        for run in now:
            for i in range(run.length):
                assert shown.get((row, run.place + i)) != run.block + i, "it was there already"
                shown[row, run.place + i] = run.block + i
        assert [shown[row, i] for i in range(len(table))] == table
        held[row] = table
    assert [list(pages.held(row)) for row in range(3)] == [held[row] for row in range(3)]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_blocks_grow_to_whole_pages_and_no_further(parts: list[int]) -> None:
    parts = [16 * part for part in parts]
    factor = fit_factor(parts, 4096)
    assert all(part * factor % 4096 == 0 for part in parts)
    divisors = [d for d in range(1, factor) if factor % d == 0]
    assert not any(all(part * d % 4096 == 0 for part in parts) for d in divisors)


@pytest.mark.parametrize(
    ("head_dim", "kv_heads", "page", "tokens"),
    [(128, 4, 2 << 20, 2048), (128, 8, 2 << 20, 1024), (128, 4, 64 << 10, 64)],
)
def test_blocks_of_the_source_s_models(head_dim: int, kv_heads: int, page: int, tokens: int) -> None:
    part = 16 * kv_heads * head_dim * 2
    assert 16 * fit_factor([part, part], page) == tokens == page // math.prod((kv_heads, head_dim, 2))
