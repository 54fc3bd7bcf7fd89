"""Graphs of keys: native walks against plain ones, and what they find of queries unlike the keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.kernels.cpu import native
from twofold.techniques.attention import key_graph
from twofold.techniques.attention.key_graph import KeyGraph, PlainGraph

needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not installed")


def unlike(count: int, queries: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [count, D], and queries [queries, D] of another distribution: around a few directions, far off."""
    g = torch.Generator().manual_seed(seed)
    keys = torch.randn(count, dim, generator=g) * (1 + 4 * (torch.arange(dim) % 5 == 0)) + 1.0
    centres = torch.randn(6, dim, generator=g) * 2
    away = torch.randn(dim, generator=g) * 3
    return keys, centres[torch.randint(6, (queries,), generator=g)] + torch.randn(
        queries, dim, generator=g
    ) - away


def make(keys: torch.Tensor, degree: int = 6) -> KeyGraph:
    return KeyGraph(keys, torch.zeros(len(keys), 2 * degree, dtype=torch.int32), degree)


def recall(graph: KeyGraph, queries: torch.Tensor, search_list: int, top: int) -> float:
    found = graph.search(queries, search_list, top).tolist()
    exact = (queries @ graph.keys[: graph.count].T).topk(top).indices.tolist()
    return sum(len(set(f) & set(e)) for f, e in zip(found, exact, strict=True)) / (len(queries) * top)


@needs_native
@settings(max_examples=15, deadline=None)
@given(st.integers(2, 70), st.integers(1, 30), st.integers(1, 6), st.integers(1, 25), st.integers(0, 99))
def test_native_walks_do_what_plain_ones_do(
    count: int, queries: int, degree: int, length: int, seed: int
) -> None:
    keys, asked = unlike(count, queries, 12, seed)
    extension = native()
    assert extension is not None
    graphs, results = [], []
    for plainly in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if plainly:
                patch.setattr(key_graph, "native", lambda: None)
            graph = make(keys, degree)
            first = max(1, count - 5)
            graph.learn(asked, first, 9, length)
            if first < count:
                graph.extend(count, length)
            stream = None if plainly else extension.Stream(2)
            top = min(4, length)
            results.append(graph.search(asked, length, top, stream))
            graphs.append(graph)
    assert torch.equal(graphs[0].neighbours[:count], graphs[1].neighbours[:count])
    assert torch.equal(results[0], results[1])
    assert graphs[0].scanned == graphs[1].scanned


def test_neighbours_are_keys_of_the_graph_without_repetition() -> None:
    keys, queries = unlike(80, 40, 8, 1)
    graph = make(keys, 4)
    graph.learn(queries, 60, 10, 20)
    graph.extend(80, 20)
    for key, row in enumerate(graph.neighbours.tolist()):
        near = [other for other in row if other >= 0]
        assert len(near) == len(set(near))
        assert key not in near
        assert all(other < 80 for other in near)
        assert near, f"key {key} cannot be reached from anywhere"


def test_queries_teach_the_graph_where_they_go() -> None:
    keys, queries = unlike(600, 400, 16, 3)
    taught, untaught = make(keys), make(keys)
    taught.learn(queries[:350], 600, 20, 60)
    untaught.learn(queries[:1], 600, 2, 60)
    asked = queries[350:]
    found, before = recall(taught, asked, 20, 10), taught.scanned
    assert found > 0.85
    assert found >= recall(untaught, asked, 20, 10)
    scanned = taught.scanned
    recall(taught, asked, 20, 10)
    assert before > 0
    assert (taught.scanned - scanned) / len(asked) < 300, "a search looked at half of all keys"


def test_a_longer_list_finds_more() -> None:
    keys, queries = unlike(400, 200, 16, 5)
    graph = make(keys)
    graph.learn(queries[:150], 400, 20, 60)
    shares = [recall(graph, queries[150:], length, 10) for length in (10, 30, 200)]
    assert shares[0] <= shares[1] <= shares[2]
    assert shares[2] > 0.97


def test_chosen_neighbours_do_not_hide_each_other() -> None:
    keys = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.1], [1.0, 1.0]])
    plain = PlainGraph(make(keys, 2))
    candidates = [(plain.like(0, other), other) for other in (1, 2, 3)]
    # Keys 1 and 3 are nearer to key 2, which is chosen first, than to key 0; the better of them fills up.
    assert plain.choose(0, candidates, 2) == [2, 1]
    assert plain.choose(0, candidates, 1) == [2]
