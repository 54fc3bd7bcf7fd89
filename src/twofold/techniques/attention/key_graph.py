"""A graph over the keys of one head that leads queries, whose distribution differs from that of keys, to the
keys with the largest inner products.

Source: RoarGraph (Chen, Zhang, He, Jing, Wang, VLDB 2024), on which RetrievalAttention bases its index.
Queries are linked with their nearest keys, found exactly, and this bipartite graph is projected onto the
keys: the nearest key of some queries stands for them, and is linked with all of their other nearest keys
except those that are nearer to a key it is already linked with. Then each key is linked with what a search
for it finds, so that all can be reached. A search keeps a list of the best keys seen, and expands the best of
them that it has not expanded yet.

Searches are native where the extension is installed (csrc/graph.cpp); `PlainGraph` does the same in Python.
"""

from __future__ import annotations

from bisect import insort
from typing import Any

import torch

from twofold.kernels.cpu import native

_BATCH = 1 << 24
"""Scores that are held at once while nearest keys are looked for."""


class KeyGraph:
    """The graph of keys [room, D] (float32, contiguous), of which the first `count` are linked: neighbours
    int32 [room, width], of which `degree` come from queries.

    scanned: inner products of searches so far.
    """

    def __init__(self, keys: torch.Tensor, neighbours: torch.Tensor, degree: int) -> None:
        self.keys, self.neighbours, self.degree = keys, neighbours, degree
        self.count = 0
        self.entry = 0
        self.scanned = 0

    def learn(self, queries: torch.Tensor, count: int, most: int, build_list: int) -> None:
        """Let the graph have the first `count` keys, and link them as `queries` [Q, D] like them: `most`
        each; new ones are then searched for with lists of `build_list`."""
        first, self.count = self.count, count
        keys = self.keys[:count]
        self.neighbours[first:count] = -1
        if not first:
            self.entry = int((keys * keys.mean(0)).sum(-1).argmax())
        nearest = self._nearest(queries, keys, min(most, count))
        extension = native()
        if extension is not None:
            extension.graph_project(self._handle(extension), nearest.data_ptr(), *nearest.shape)
            self.scanned += extension.graph_extend(self._handle(extension), first, build_list)
            return
        plain = PlainGraph(self)
        liked: dict[int, list[int]] = {}
        for best, *others in nearest.tolist():
            liked.setdefault(best, []).extend(others)
        for best in sorted(liked):
            plain.project([best, *dict.fromkeys(liked[best])])
        for key in range(first, count):
            plain.connect(key, build_list)

    def extend(self, count: int, search_list: int) -> None:
        """Let the graph have the first `count` keys, new ones linked with what a search for them finds."""
        first, self.count = self.count, count
        self.neighbours[first:count] = -1
        extension = native()
        if extension is not None:
            self.scanned += extension.graph_extend(self._handle(extension), first, search_list)
            return
        plain = PlainGraph(self)
        for key in range(first, count):
            plain.connect(key, search_list)

    def search(self, queries: torch.Tensor, search_list: int, top: int, stream: Any = None) -> torch.Tensor:
        """Numbers of the `top` best keys that a walk finds for each of `queries` [Q, D] (contiguous), best
        first, -1 behind the last: int32 [Q, top]."""
        found = torch.full((len(queries), top), -1, dtype=torch.int32)
        extension = native()
        if extension is not None and stream is not None:
            where = queries.data_ptr(), len(queries), search_list, top, found.data_ptr()
            self.scanned += extension.graph_search(stream, self._handle(extension), *where)
            return found
        plain = PlainGraph(self)
        for i, query in enumerate(queries):
            best = plain.search(query, search_list)[:top]
            found[i, : len(best)] = torch.tensor([key for _, key in best], dtype=torch.int32)
        return found

    def _handle(self, extension: Any) -> Any:
        where = self.keys.data_ptr(), self.neighbours.data_ptr(), self.count, self.keys.shape[1]
        return extension.Graph(*where, self.degree, self.neighbours.shape[1], self.entry)

    @staticmethod
    def _nearest(queries: torch.Tensor, keys: torch.Tensor, most: int) -> torch.Tensor:
        """The `most` keys with the largest inner products, best first: int32 [Q, most]."""
        size = max(1, _BATCH // len(keys))
        parts = [(part @ keys.T).topk(most).indices.int() for part in torch.split(queries, size)]
        return torch.cat(parts).contiguous()


class PlainGraph:
    """What csrc/graph.cpp does, in Python."""

    def __init__(self, graph: KeyGraph) -> None:
        self.graph = graph
        self.rows = graph.neighbours
        self.width = graph.neighbours.shape[1]

    def like(self, a: int, b: int) -> float:
        """The inner product of two keys."""
        keys = self.graph.keys
        return float((keys[a] * keys[b]).sum())

    def search(self, query: torch.Tensor, length: int, skip: int = -1) -> list[tuple[float, int]]:
        """(score, key) of the best keys found, best first, at most `length`, without `skip`."""
        graph = self.graph
        seen: set[int] = set()
        best: list[tuple[float, int]] = []  # (-score, key), ascending
        expanded: set[int] = set()

        def look(keys: list[int]) -> None:
            new = [key for key in dict.fromkeys(keys) if key >= 0 and key not in seen]
            if not new:
                return
            seen.update(new)
            for key, score in zip(new, (graph.keys[new] * query).sum(-1).tolist(), strict=True):
                insort(best, (-score, key))
            del best[length:]

        look([graph.entry])
        while (at := next((key for _, key in best if key not in expanded), None)) is not None:
            expanded.add(at)
            look(self.rows[at].tolist())
        graph.scanned += len(seen)
        return [(-score, key) for score, key in best if key != skip]

    def choose(self, key: int, candidates: list[tuple[float, int]], most: int) -> list[int]:
        """Of candidates (score, key) those that are not nearer to a chosen one than to `key`, then the best
        of the others."""
        chosen: list[int] = []
        others: list[int] = []
        for score, other in sorted(candidates, key=lambda c: (-c[0], c[1])):
            if len(chosen) == most:
                break
            if other == key:
                continue
            hidden = any(kept == other or self.like(kept, other) > score for kept in chosen)
            (others if hidden else chosen).append(other)
        for other in others:
            if len(chosen) >= most:
                break
            if other not in chosen:
                chosen.append(other)
        return chosen

    def add(self, start: int, end: int, first: int, last: int) -> None:
        """Put `end` among the neighbours first … last - 1 of `start`, which may be full."""
        row = self.rows[start].tolist()
        if start == end or end in row:
            return
        part = row[first:last]
        if -1 in part:
            part[part.index(-1)] = end
        else:  # for the worst of them if it is better
            ranks = [(-self.like(start, other), other) for other in part]
            if (-self.like(start, end), end) < max(ranks):
                part[ranks.index(max(ranks))] = end
        self.rows[start, first:last] = torch.tensor(part, dtype=torch.int32)

    def project(self, nearest: list[int]) -> None:
        """Link what queries like beside the key that they like best to that key, which is the first."""
        degree, best = self.graph.degree, nearest[0]
        if len(nearest) < 2:
            return
        known = [key for key in self.rows[best, :degree].tolist() if key >= 0 and key not in nearest]
        candidates = [(self.like(best, key), key) for key in nearest[1:] + known]
        linked = self.choose(best, candidates, degree)
        self.rows[best, :degree] = -1
        self.rows[best, : len(linked)] = torch.tensor(linked, dtype=torch.int32)
        for key in linked:
            self.add(key, best, 0, degree)

    def connect(self, key: int, length: int) -> None:
        """Link a key with what a search for it finds, both ways."""
        degree, width = self.graph.degree, self.width
        found = self.search(self.graph.keys[key], length, key)
        for other in self.choose(key, found, width - degree):
            self.add(key, other, degree, width)
            self.add(other, key, degree, width)
