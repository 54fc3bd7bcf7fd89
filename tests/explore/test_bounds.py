"""No bound discards what a full evaluation would have kept."""

from __future__ import annotations

from typing import Any

import pytest
from tests.explore.spaces import exploration, search_of

from twofold.explore.objectives import dominates

SPACES: dict[str, dict[str, Any]] = {
    "dense": {},
    "limits": {"slo": {"ttft_p90": "300 ms", "tpot_p90": "15 ms"}},
    "techniques": {
        "devices": ["a100-80g-sxm", "t4"],
        "techniques": [[], ["kivi:bits=2"], ["copyspec"], ["llm-drop"], ["gemfilter:keep=128"], ["sarathi"]],
        "prices": {"t4": 0.35},
    },
    "rates": {"concurrency": [], "rate": [0.5, 4.0, 16.0], "slo": {"ttft_p90": "1 s"}},
    "formats": {"weights": ["auto", "fp8"], "precisions": ["auto", "fp32"], "counts": [1]},
    "throughput": {"objectives": ["throughput", "energy"]},
}


@pytest.mark.parametrize("name", SPACES)
def test_pruning_changes_nothing_that_is_kept(name: str) -> None:
    found = exploration(**SPACES[name])
    pruned, full = search_of(found).enumerate(), search_of(found).enumerate(prune=False)
    assert len(pruned.verdicts) == len(full.verdicts)
    assert pruned.front.values == full.front.values
    for number, verdict in full.verdicts.items():
        if not verdict.constraint and pruned.verdicts[number].constraint:
            # A bound may only leave out what something on the front beats.
            mine = search_of(found).values(verdict)
            assert any(dominates(values, mine) for values in full.front.values.values())


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
@pytest.mark.parametrize("name", SPACES)
def test_bounds_are_below_every_estimate(name: str, model: str) -> None:
    search = search_of(exploration({"model": model}, **SPACES[name]))
    checked = 0
    for number, verdict in search.enumerate(prune=False).verdicts.items():
        candidate = search.space.at(number)
        floor = search.bounds.floor(candidate)
        if verdict.estimate is None or floor is None:
            continue
        assert search.bounds.refusal(candidate.deployment) == ("", "")
        estimate = verdict.estimate
        assert floor.tpot <= min(estimate.tpot.values())
        assert floor.ttft <= min(estimate.ttft.values())
        assert floor.e2e <= estimate.e2e
        assert floor.joules <= estimate.joules
        assert floor.tokens_per_s >= estimate.tokens_per_s
        checked += 1
    assert checked


def test_what_cannot_fit_is_discarded_before_it_is_built() -> None:
    search = search_of(exploration({"model": "llama-3.1-70b"}, counts=[1], techniques=[[]]))
    found = search.enumerate()
    assert {v.constraint for v in found.verdicts.values()} == {"memory"}
    assert found.estimated == 0
    assert found.bounded == len(search.space)
