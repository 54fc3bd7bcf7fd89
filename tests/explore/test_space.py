"""The space of candidates."""

from __future__ import annotations

from tests.explore.spaces import exploration

from twofold.explore.space import Space
from twofold.models.catalog import get_spec


def _space(model: str = "llama-3.1-8b", **section: object) -> Space:
    found = exploration({"model": model}, **section)
    return Space(found, get_spec(model))


def test_every_candidate_is_there_once() -> None:
    space = _space()
    candidates = [c for group in space.deployments() for c in group]
    assert [c.number for c in candidates] == list(range(len(space)))
    assert len({(c.deployment, c.setting) for c in candidates}) == len(space)
    assert candidates == [space.at(number) for number in range(len(space))]


def test_layouts_are_all_ways_to_make_a_count() -> None:
    layouts = {(x.tp, x.pp, x.dp) for x in _space(counts=[4]).axes["layout"]}
    assert layouts == {(4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 4, 1), (1, 2, 2), (1, 1, 4)}
    assert {(x.tp, x.pp, x.dp) for x in _space(counts=[4], tp=[4, 2], pp=[1]).axes["layout"]} == {
        (4, 1, 1),
        (2, 1, 2),
    }


def test_experts_are_spread_only_where_there_are_some() -> None:
    assert {x.ep for x in _space(counts=[4]).axes["layout"]} == {1}
    assert {x.ep for x in _space("mixtral-8x7b", counts=[4]).axes["layout"]} == {1, 2, 4}


def test_a_candidate_is_a_plan() -> None:
    space = _space()
    for number in range(0, len(space), 7):
        candidate = space.at(number)
        plan = space.plan_of(candidate)
        cut = candidate.deployment.layout
        assert (plan.parallel.tp, plan.parallel.pp, plan.parallel.dp) == (cut.tp, cut.pp, cut.dp)
        assert plan.techniques == space.uses(candidate.deployment)
        assert plan.workload.concurrency == candidate.setting.concurrency
        assert plan.engine.max_num_batched_tokens == candidate.setting.max_num_batched_tokens
        assert "max_num_seqs" not in plan.engine.model_fields_set  # left to the engine's default
