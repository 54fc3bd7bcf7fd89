"""Seconds that messages take among devices: latency and bandwidth of the links, for the algorithms that
libraries choose from.

An algorithm that takes s steps and sends b bytes per device over a link of latency a and bandwidth B takes
s·a + b/B (the alpha-beta model; Thakur, Rabenseifner, Gropp, "Optimization of collective communication
operations in MPICH", 2005). Libraries pipeline a ring in two ways (NCCL's protocols): with a flag in every
word, which is quick and halves the bandwidth, and in blocks, whose steps take longer. All-reduce has three
more: a tree among nodes; kernels that read the other devices' memory, in one exchange or in two (vLLM,
SGLang, TensorRT-LLM); and sums made by the switch (NVLink SHARP).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from twofold.ops.movement import AllGather, AllReduce, AllToAll, Collective, Send


@dataclass(frozen=True, slots=True)
class Peers:
    """All-reduce by reading the other devices' memory: seconds of a kernel with its barrier, bytes/s per
    device and direction, and the largest message it is used for."""

    start: float
    bandwidth: float
    limit: float


@dataclass(frozen=True, slots=True)
class Switch:
    """All-reduce whose sums the switch makes: seconds to set it up, bytes/s per device and direction."""

    start: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Link:
    """bandwidth: bytes/s per device and direction, as reached; latency: seconds per step; direct: every
    pair is connected; start: seconds of any collective besides; blocks: how many times longer a step takes
    when it sends whole blocks at full bandwidth; tree: whether sums may go up and down a tree."""

    bandwidth: float
    latency: float
    direct: bool = False
    start: float = 0.0
    blocks: float = 1.0
    tree: bool = False
    peers: Peers | None = None
    switch: Switch | None = None

    def seconds(self, steps: float, nbytes: float) -> float:
        """The quicker of both ways to send `nbytes` in `steps`."""
        words = steps * self.latency + 2.0 * nbytes / self.bandwidth
        blocks = steps * self.latency * self.blocks + nbytes / self.bandwidth
        return self.start + min(words, blocks)


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
    """Every device ends with the sum: whichever algorithm of the link is fastest."""
    if n == 1:
        return 0.0
    share = 2.0 * nbytes * (n - 1) / n
    times = [link.seconds(2 * (n - 1), share)]
    if link.tree:
        times.append(link.seconds(2 * ceil(log2(n)), 2.0 * nbytes))
    if link.peers is not None and nbytes < link.peers.limit:
        start, bandwidth = link.peers.start, link.peers.bandwidth
        times.append(start + nbytes * (n - 1) / bandwidth)
        times.append(2 * start + share / bandwidth)
    if link.switch is not None:
        times.append(link.switch.start + nbytes * (n + 1) / n / link.switch.bandwidth)
    return min(times)


def reduce_scatter(nbytes: float, n: int, link: Link) -> float:
    """Every device ends with its 1/n of the sum of messages of `nbytes`."""
    return 0.0 if n == 1 else link.seconds(n - 1, nbytes * (n - 1) / n)


def all_gather(nbytes: float, n: int, link: Link) -> float:
    """Every device ends with all messages of `nbytes` each."""
    return 0.0 if n == 1 else link.seconds(n - 1, nbytes * (n - 1))


def all_to_all(nbytes: float, n: int, link: Link) -> float:
    """Every device sends 1/n of `nbytes` to each other one. On a ring a message passes n/4 devices on
    average."""
    if n == 1:
        return 0.0
    hops = 1.0 if link.direct else max(1.0, n / 4)
    return link.seconds(1 if link.direct else n - 1, hops * nbytes * (n - 1) / n)


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
        near = inner.seconds(1, size) if inner else 0.0
        far = outer.seconds(1, size) if outer else 0.0
        return (1.0 - group.crossing) * near + group.crossing * far
    raise ValueError(f"no model of the collective {type(op).__name__}")
