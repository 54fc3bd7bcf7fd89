"""Tasks come to the same verdicts wherever they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait

import pytest
from tests.explore.spaces import exploration, search_of

from twofold.explore import workers
from twofold.explore.evaluate import Task, Verdict, task_of
from twofold.explore.search import Search
from twofold.explore.workers import LocalPool, RayPool


def _tasks(search: Search) -> Iterator[Task]:
    for group in search.space.deployments():
        if not search.bounds.refusal(group[0].deployment)[0]:
            yield task_of(search.space.plan_of(group[0]), group)


def _verdicts(pool: workers.Pool, search: Search) -> dict[int, Verdict]:
    tasks = list(_tasks(search))
    return {v.number: v for verdicts in pool.run(iter(tasks), len(tasks)) for v in verdicts}


def test_no_jobs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LocalPool(search_of(exploration()).pool.evaluator, 0)  # type: ignore[attr-defined]


@pytest.mark.long
def test_other_processes_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORTH_A_WORKER", 1)
    monkeypatch.setattr(workers, "BUNDLE", 1)
    search = search_of(exploration(counts=[1]))
    evaluator = search.pool.evaluator  # type: ignore[attr-defined]
    alone = _verdicts(LocalPool(evaluator, 1), search)
    assert alone
    pool = LocalPool(evaluator, 2)
    try:
        assert _verdicts(pool, search) == alone
        wait(pool._ready)
        assert _verdicts(pool, search) == alone  # the processes stay, and now take their share
    finally:
        pool.close()


@pytest.mark.long
def test_a_ray_cluster_comes_to_the_same() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    search = search_of(exploration(counts=[1]))
    evaluator = search.pool.evaluator  # type: ignore[attr-defined]
    cluster = RayPool(evaluator)
    try:
        assert _verdicts(cluster, search) == _verdicts(LocalPool(evaluator, 1), search)
    finally:
        cluster.close()


def test_ray_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"twofold\[ray\]"):
        RayPool(search_of(exploration()).pool.evaluator)  # type: ignore[attr-defined]
