"""SN40L's comparisons: experts that come and go, nodes that are charged alike, and the claimed directions."""

from __future__ import annotations

import pytest

from twofold.claims.ledger import judge
from twofold.claims.setups import sn40l
from twofold.claims.setups.sn40l_experts import (
    DGX_A100,
    DGX_H100,
    SN40L,
    answer_seconds,
    expert_seconds,
    held,
    misses,
    resident,
    switch_seconds,
)
from twofold.devices.machines.sn40l import Sn40l

BY_KEY = {claim.key.removeprefix("sn40l-"): claim for claim in sn40l.CLAIMS}


def test_least_recently_used_experts_leave() -> None:
    """None is missed where all fit; of a uniform stream the share that is not there is missed."""
    assert misses(40, 40) == misses(10, 40) == 0.0
    assert misses(150, 50) == pytest.approx(1 - 50 / 150, abs=0.02)
    assert misses(150, 50) == misses(150, 50)
    assert misses(2, 1) == pytest.approx(0.5, abs=0.02)


def test_rooms() -> None:
    """About fifty experts fit into a DGX's HBM and 150 into its host, as the source says; a node of SN40L
    holds six times as many in DDR."""
    assert resident(DGX_A100) == resident(DGX_H100) == 49
    assert 30 < resident(SN40L) < 49
    assert 145 <= held(DGX_A100) <= 150 < 850 < held(SN40L)


def test_switching_is_the_difference_of_the_links() -> None:
    """An expert over one PCIe link, or eight, or from DDR beside each socket."""
    ours = switch_seconds(SN40L)
    assert ours == pytest.approx(13.48e-3, rel=0.01)
    assert switch_seconds(DGX_A100) / switch_seconds(DGX_A100, 8) == pytest.approx(8, rel=0.01)
    for key in ("switch-a100", "switch-h100"):
        claim = BY_KEY[key]
        assert judge(claim.claimed, sn40l.switching(claim).ours, "x")[0] == "reproduced"


def test_more_experts_than_fit_cost_copies() -> None:
    """Latency rises past what HBM holds, steeply on a DGX, hardly on SN40L."""
    ours, theirs = ([answer_seconds(node, n, 8, 20) for n in (30, 140)] for node in (SN40L, DGX_A100))
    assert 1 < ours[1] / ours[0] < 1.5
    assert theirs[1] / theirs[0] > 3
    assert expert_seconds(SN40L, 20) < expert_seconds(DGX_H100, 20) < expert_seconds(DGX_A100, 20)


def test_fusion_pays_in_prompts_and_tokens() -> None:
    """Every benchmark gains; a slower launch costs decoding; the headline is one of them."""
    low, high = sn40l.fused().ours
    assert 1 < low < high
    assert sn40l.orchestrated().ours[0] > 1
    assert sn40l.calls().ours[0] > 5
    assert low < sn40l.headline(Sn40l()) < high * 1.2
    assert sn40l.footprint().ours[0] > 15
