"""Every op has a reference kernel, and the collectives do what they say among real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import twofold.engine.sampler
import twofold.kernels.reference  # noqa: F401
from twofold.kernels.registry import REFERENCE
from twofold.ops.base import Op
from twofold.ops.movement import AllGather, AllReduce, AllToAll, Collective, Send
from twofold.ops.pruned_attention import PrunedAttention
from twofold.techniques.registry import technique_class, technique_names

WORLD = 2


def subclasses(cls: type[Op]) -> set[type[Op]]:
    return {cls} | {deep for sub in cls.__subclasses__() for deep in subclasses(sub)}


def test_every_op_has_a_reference_kernel() -> None:
    for name in technique_names():
        technique_class(name)
    # By name: dataclasses with slots leave their unslotted originals behind as subclasses of the same name.
    named = {c.__name__ for c in subclasses(Op) if c.__module__.startswith("twofold")}
    named -= {base.__name__ for base in (Op, Collective, PrunedAttention)}  # never executed themselves
    assert named == {c.__name__ for c in REFERENCE}, named ^ {c.__name__ for c in REFERENCE}
    assert len(named) > 15


def participant(rank: int, meeting: Path, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    x = torch.tensor([[1.0, 2.0]]) + 10 * rank
    reduced = REFERENCE[AllReduce](AllReduce(8, WORLD, "tp"), x.clone())
    gathered = REFERENCE[AllGather](AllGather(8, WORLD, "tp"), x)
    parts = [torch.tensor([100.0 * rank + to]) for to in range(WORLD)]
    exchanged = REFERENCE[AllToAll](AllToAll(8, WORLD, "ep"), parts)
    passed = REFERENCE[Send](Send(8, WORLD, "pp"), x)
    results[rank] = [reduced.tolist(), gathered.tolist(), [t.tolist() for t in exchanged], passed.tolist()]
    dist.destroy_process_group()


def test_collectives_among_two_processes(tmp_path: Path) -> None:
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(participant, (tmp_path / "meeting", results), nprocs=WORLD)
        first, second = results[0], results[1]
    assert first[0] == second[0] == [[12.0, 14.0]]
    assert first[1] == second[1] == [[1.0, 2.0, 11.0, 12.0]]
    assert first[2] == [[0.0], [100.0]]
    assert second[2] == [[1.0], [101.0]]
    assert first[3] == [[1.0, 2.0]]
    assert second[3] == [[1.0, 2.0]], "the second stage gets what the first computed"
