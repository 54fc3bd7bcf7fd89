"""Collectives and clusters: lower bounds, monotony, which links a group uses, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.catalog import get_device
from twofold.devices.cluster import Cluster
from twofold.devices.links import (
    Group,
    Link,
    Peers,
    Switch,
    all_gather,
    all_reduce,
    all_to_all,
    collective_seconds,
)
from twofold.ops import AllGather, AllReduce, AllToAll, Norm, Send
from twofold.ops.movement import Collective

NEAR = Link(400e9, 1e-6, True, 5e-6, 4.0, peers=Peers(4e-6, 350e9, 8 * 2**20), switch=Switch(50e-6, 300e9))
FAR = Link(50e9, 3e-6, direct=True, start=5e-6, blocks=4.0, tree=True)
RING = Link(100e9, 1e-6)
H100 = get_device("h100-sxm")

groups = st.sampled_from(
    [
        Group(2, 1, NEAR),
        Group(8, 1, NEAR),
        Group(8, 1, RING),
        Group(8, 4, NEAR, FAR),
        Group(1, 4, None, FAR),
        Group(4, 2, RING, FAR),
    ]
)
kinds = st.sampled_from([AllReduce, AllGather, AllToAll])


def take(kind: type[Collective], nbytes: int, group: Group) -> float:
    return collective_seconds(kind(nbytes, group.size, "tp"), group)


@settings(max_examples=200, deadline=None)
@given(kind=kinds, nbytes=st.integers(1, 10**9), group=groups)
def test_no_collective_beats_its_links(kind: type[Collective], nbytes: int, group: Group) -> None:
    links = [link for link in (group.inner, group.outer) if link is not None]
    seconds = take(kind, nbytes, group)
    # A device drives its links inside the node and between nodes at the same time at best, and a switch that
    # adds spares it all but one copy of what it would send.
    sent = nbytes if kind is AllReduce else kind(nbytes, group.size, "tp").cost().sent
    assert seconds >= sent / sum(link.bandwidth for link in links)
    starts = [link.start + link.latency for link in links]
    starts += [link.peers.start for link in links if link.peers is not None]
    assert seconds >= min(starts)


@settings(max_examples=100, deadline=None)
@given(kind=kinds, nbytes=st.integers(1, 10**9), more=st.integers(1, 10**9), group=groups)
def test_larger_messages_take_longer(kind: type[Collective], nbytes: int, more: int, group: Group) -> None:
    assert take(kind, nbytes + more, group) > take(kind, nbytes, group)


def test_small_messages_are_bound_by_latency_and_large_ones_by_bandwidth() -> None:
    assert all_reduce(8, 8, NEAR) == pytest.approx(4e-6, rel=0.01)  # one kernel that reads all others
    assert all_reduce(8, 8, RING) == pytest.approx(14e-6, rel=0.01)  # seven steps to sum, seven to spread
    assert all_reduce(8, 8, FAR) == pytest.approx(5e-6 + 6 * 3e-6, rel=0.01)  # a tree of depth 3, up and down
    assert all_reduce(1e9, 8, RING) == pytest.approx(2 * 7 / 8 * 1e9 / 100e9, rel=0.01)


def test_medium_messages_are_exchanged_twice() -> None:
    """Reading 1/n of all messages and then all sums moves less than reading all messages."""
    nbytes = 4e6
    assert all_reduce(nbytes, 8, NEAR) == pytest.approx(2 * 4e-6 + 2 * 7 / 8 * nbytes / 350e9)
    assert all_reduce(nbytes, 2, NEAR) == pytest.approx(4e-6 + nbytes / 350e9)


def test_kernels_over_peers_end_at_their_limit() -> None:
    limit = 8 * 2**20
    assert all_reduce(limit, 8, NEAR) > 1.2 * all_reduce(limit - 1, 8, NEAR)


def test_a_switch_that_adds_pays_for_large_messages_among_many() -> None:
    plain = replace(NEAR, switch=None)
    assert all_reduce(1e9, 8, NEAR) == pytest.approx(50e-6 + 9 / 8 * 1e9 / 300e9)
    assert all_reduce(1e9, 8, NEAR) < all_reduce(1e9, 8, plain)
    assert all_reduce(1e9, 2, NEAR) == all_reduce(1e9, 2, plain)


def test_rings_take_a_step_per_member_and_direct_exchanges_one() -> None:
    assert all_gather(1, 8, NEAR) - all_gather(1, 2, NEAR) == pytest.approx(6e-6, rel=0.01)
    assert all_to_all(8, 8, NEAR) == pytest.approx(all_to_all(8, 2, NEAR), rel=0.01)


def test_words_are_quicker_for_small_messages_and_blocks_for_large_ones() -> None:
    assert NEAR.seconds(7, 8) == pytest.approx(5e-6 + 7e-6, rel=0.01)
    assert NEAR.seconds(7, 1e9) == pytest.approx(5e-6 + 28e-6 + 1e9 / 400e9)


def test_alone_there_is_nothing_to_send() -> None:
    assert all_reduce(10**9, 1, NEAR) == 0.0


def test_a_group_within_a_node_uses_its_links() -> None:
    tp = Cluster(H100, tp=8).groups()["tp"]
    assert (tp.local, tp.nodes, tp.outer) == (8, 1, None)
    assert H100.link is not None
    assert tp.inner is not None
    assert tp.inner.bandwidth == H100.link.bandwidth.value * H100.efficiency.collective.share.value


def test_a_group_across_nodes_is_hierarchical() -> None:
    cluster = Cluster(H100, tp=16)
    tp = cluster.groups()["tp"]
    assert (tp.local, tp.nodes, cluster.nodes) == (8, 2, 2)
    inside, across = Cluster(H100, tp=8).groups()["tp"], tp
    assert take(AllReduce, 10**6, across) > take(AllReduce, 10**6, inside)


def test_stages_send_across_nodes_only_at_their_edges() -> None:
    pp = Cluster(H100, tp=4, pp=4).groups()["pp"]
    assert pp.crossing == pytest.approx(1 / 3)
    near = collective_seconds(Send(10**6, 2, "pp"), Cluster(H100, tp=4, pp=2).groups()["pp"])
    far = collective_seconds(Send(10**6, 2, "pp"), Cluster(H100, tp=8, pp=2).groups()["pp"])
    assert near < collective_seconds(Send(10**6, 4, "pp"), pp) < far


def test_experts_over_replicas_are_placed_before_stages() -> None:
    groups = Cluster(H100, tp=2, pp=2, dp=4, ep=8).groups()
    assert (groups["ep"].local, groups["ep"].nodes) == (8, 1)
    assert groups["pp"].crossing == 1.0


def test_energy_is_that_of_all_ranks() -> None:
    op = Norm(64, 4096, "rms", 2)
    joules = []
    for tp in (1, 4):
        device = Cluster(H100, tp=tp).rank()
        device.begin_step()
        device.execute(op)
        joules.append(device.end_step().joules)
    assert joules[1] == pytest.approx(4 * joules[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tp": 0}, "positive integer"),
        ({"tp": True}, "positive integer"),
        ({"tp": 2, "dp": 2, "ep": 3}, "allowed"),
        ({"tp": 12}, "spread evenly"),
    ],
)
def test_bad_clusters(kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(H100, **kwargs)


@pytest.mark.parametrize("name", ["xeon-8480", "rtx-4090"])
def test_devices_without_a_network_stay_in_their_node(name: str) -> None:
    with pytest.raises(ValueError, match="no network"):
        Cluster(get_device(name), tp=4)
