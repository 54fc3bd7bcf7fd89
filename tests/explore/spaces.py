"""Small explorations that tests search."""

from __future__ import annotations

from typing import Any

from twofold.explore.bounds import Bounds
from twofold.explore.evaluate import Evaluator
from twofold.explore.load import Shape
from twofold.explore.plan import Exploration, make_exploration
from twofold.explore.quality import KnownQuality
from twofold.explore.search import Search
from twofold.explore.space import Space
from twofold.explore.workers import LocalPool
from twofold.models.catalog import get_spec
from twofold.plan import Plan

PLAN: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "workload": {"prompt": 512, "output": 64, "requests": 64},
}
SPACE: dict[str, Any] = {
    "devices": ["h100-sxm", "rtx-4090"],
    "counts": [1, 2],
    "techniques": [[], ["int-vs-fp:format=mxint8"]],
    "concurrency": [4, 32],
    "max_num_batched_tokens": [512, 2048],
    "quality": {"unknown": "admit"},
}


def exploration(plan: dict[str, Any] | None = None, **section: Any) -> Exploration:
    """The small exploration, with what a test changes."""
    return make_exploration(Plan.from_dict({**PLAN, **(plan or {})}), {**SPACE, **section})


def search_of(found: Exploration, *, jobs: int = 1) -> Search:
    """A search over it in this process, without recorded quality."""
    spec = get_spec(found.plan.model)
    load = found.plan.workload
    shape = Shape(load.prompt, load.output, load.requests)
    space = Space(found, spec)
    evaluator = Evaluator(found.plan.model, shape, found.explore.slo)
    bounds = Bounds(found, space, spec, shape, stored=False)
    return Search(found, space, bounds, lambda _: KnownQuality("lossless"), LocalPool(evaluator, jobs))
