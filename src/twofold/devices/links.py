"""Seconds that messages take among devices: latency and bandwidth of the links, for the algorithms that
libraries choose from.

An algorithm that takes s steps and sends b bytes per device over a link of latency a and bandwidth B takes
s·a + b/B (the alpha-beta model; Thakur, Rabenseifner, Gropp, "Optimization of collective communication
operations in MPICH", 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from twofold.ops.movement import AllGather, AllReduce, AllToAll, Collective, Send


@dataclass(frozen=True, slots=True)
class Link:
    """bandwidth: bytes/s per device and direction, as reached; latency: seconds per step; direct: every
    pair is connected."""

    bandwidth: float
    latency: float
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A parallel group: `local` members on each of `nodes` nodes; `inner` links members of a node, `outer`
    nodes.

    crossing: share of its neighbours that are on different nodes (for pipelines).
    """

    local: int = 1
    nodes: int = 1
    inner: Link | None = None
    outer: Link | None = None
    crossing: float = 0.0

    @property
    def size(self) -> int:
        """Members."""
        return self.local * self.nodes


def all_reduce(nbytes: float, n: int, link: Link) -> float:
    """Every device ends with the sum: ring, tree, or (where every pair is connected) direct exchange,
    whichever is fastest."""
    if n == 1:
        return 0.0
    share = 2.0 * nbytes * (n - 1) / n / link.bandwidth
    times = [2 * (n - 1) * link.latency + share]
    times.append(2 * ceil(log2(n)) * link.latency + 2.0 * nbytes / link.bandwidth)
    if link.direct:
        times.append(2 * link.latency + share)
        times.append(link.latency + nbytes * (n - 1) / link.bandwidth)
    return min(times)


def reduce_scatter(nbytes: float, n: int, link: Link) -> float:
    """Every device ends with its 1/n of the sum of messages of `nbytes`."""
    if n == 1:
        return 0.0
    return (1 if link.direct else n - 1) * link.latency + nbytes * (n - 1) / n / link.bandwidth


def all_gather(nbytes: float, n: int, link: Link) -> float:
    """Every device ends with all messages of `nbytes` each."""
    if n == 1:
        return 0.0
    return (1 if link.direct else n - 1) * link.latency + nbytes * (n - 1) / link.bandwidth


def all_to_all(nbytes: float, n: int, link: Link) -> float:
    """Every device sends 1/n of `nbytes` to each other one. On a ring a message passes n/4 devices on
    average."""
    if n == 1:
        return 0.0
    hops = 1.0 if link.direct else max(1.0, n / 4)
    return (1 if link.direct else n - 1) * link.latency + hops * nbytes * (n - 1) / n / link.bandwidth


def collective_seconds(op: Collective, group: Group) -> float:
    """Seconds of `op` in `group`. Across nodes collectives are hierarchical: within nodes, between them,
    within nodes."""
    assert op.world == group.size, f"{op} in a group of {group.size}"
    size, local, nodes, inner, outer = op.nbytes, group.local, group.nodes, group.inner, group.outer
    assert local == 1 or inner is not None
    assert nodes == 1 or outer is not None
    if isinstance(op, AllReduce):
        if nodes == 1:
            return all_reduce(size, local, inner) if inner else 0.0
        assert outer is not None
        seconds = all_reduce(size / local, nodes, outer)
        if inner is not None and local > 1:
            seconds += reduce_scatter(size, local, inner) + all_gather(size / local, local, inner)
        return seconds
    if isinstance(op, AllGather):
        seconds = all_gather(size, nodes, outer) if outer else 0.0
        return seconds + (all_gather(size * nodes, local, inner) if inner else 0.0)
    if isinstance(op, AllToAll):
        # Both kinds of links carry their share at the same time.
        within = all_to_all(size / nodes, local, inner) if inner else 0.0
        return max(within, all_to_all(size, nodes, outer) if outer else 0.0)
    if isinstance(op, Send):
        near = inner.latency + size / inner.bandwidth if inner else 0.0
        far = outer.latency + size / outer.bandwidth if outer else 0.0
        return (1.0 - group.crossing) * near + group.crossing * far
    raise ValueError(f"no model of the collective {type(op).__name__}")
