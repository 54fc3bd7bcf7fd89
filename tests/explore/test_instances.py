"""Techniques over several instances: pool sizes are searched, and each instance has the whole layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.explore.spaces import exploration, search_of

from twofold.explore.plan import load_exploration
from twofold.explore.run import explore

EXAMPLE = Path(__file__).parents[2] / "examples" / "explore-splitwise.yaml"
POOLS = {
    "devices": ["h100-sxm"],
    "counts": [1, 2],
    "pp": [1],
    "techniques": [[], "splitwise:prompt=1|2,token=1"],
    "concurrency": [8],
    "max_num_batched_tokens": [2048],
    "prices": {"h100-sxm": 2.0, "a100-80g-sxm": 1.0},
}


def test_the_example_finds_the_pools_that_keep_the_levels() -> None:
    found = explore(load_exploration(EXAMPLE), jobs=1)
    assert found.best is not None
    assert found.best.place.techniques == ["splitwise(prompt=2)"]
    assert found.best.place.count == 3 * 8
    broken = {row.constraint for row in found.candidates if not row.place.techniques}
    assert broken & {"ttft_p50", "ttft_p90", "tpot_p90"}, "some replicas that do both break a level"
    small = next(row for row in found.candidates if row.place.techniques == ["splitwise"] and row.estimate)
    assert small.constraint.startswith("ttft"), "one prompt machine is too few"


def test_every_instance_counts_and_is_paid_for() -> None:
    search = search_of(exploration(**POOLS))
    space = search.space
    seen = {}
    for verdict in search.enumerate(prune=False).verdicts.values():
        deployment = space.at(verdict.number).deployment
        count = len(space.instances(deployment))
        assert search.bounds.price(deployment) == 2.0 * count * deployment.layout.devices
        if count > 1 and deployment.layout.dp > 1:
            assert verdict.constraint == "layout"
        elif count > 1:
            assert verdict.estimate is not None
            seen[count, deployment.layout.tp] = verdict.estimate.ttft["mean"]
    assert set(seen) == {(2, 1), (2, 2), (3, 1), (3, 2)}
    assert seen[3, 1] < seen[2, 1], "a second prompt machine shortens the queue"


def test_pools_of_two_devices_are_paid_for_as_what_they_are() -> None:
    section = {**POOLS, "counts": [1], "techniques": ["splitwise:token_device=a100-80g-sxm,prompt=1,token=2"]}
    search = search_of(exploration(**section))
    deployment = search.space.at(0).deployment
    assert search.space.instances(deployment) == ("h100-sxm", "a100-80g-sxm", "a100-80g-sxm")
    assert search.bounds.price(deployment) == 2.0 + 2 * 1.0
    assert search.enumerate().verdicts[0].estimate is not None


def test_the_power_of_all_instances_is_held_against_the_budget() -> None:
    section = {**POOLS, "counts": [1], "budget": {"watts": 1500}}
    found = search_of(exploration(**section)).enumerate()
    assert [v.constraint for _, v in sorted(found.verdicts.items())] == ["", "", "power budget"]


def test_a_real_device_for_a_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="explore predicts, and 'cpu' is a real device"):
        explore(exploration(**{**POOLS, "techniques": ["splitwise:token_device=cpu"]}), jobs=1)
