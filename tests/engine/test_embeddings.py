"""Embeddings: the mean of the last hidden states, whatever a request was batched with, cut into or lost."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
import transformers
from tests.devices.fake_native import fake_device
from tests.engine.test_engine import prompts
from tests.models.tiny import tiny_hf_dir
from tests.test_invariants import ON_ONE, uses
from tests.tiny import tiny_engine

from twofold.devices.cpu_device import CpuDevice
from twofold.devices.registry import make_device
from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.integrity import check
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.models.find import find_spec
from twofold.ops import Pool
from twofold.plan import Plan

FAMILIES = ["llama", "gemma3", "mixtral", "gpt2", "opt"]
PLAIN = SamplingParams(max_tokens=12, ignore_eos=True)


@cache
def oracle(family: str) -> transformers.PreTrainedModel:
    path = tiny_hf_dir(family, Path(mkdtemp(prefix="twofold-embed-")))
    return transformers.AutoModel.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def expected(family: str, ids: list[int]) -> torch.Tensor:
    """What transformers computes: the mean of the last hidden states, which it gives after the final norm."""
    with torch.no_grad():
        mean: torch.Tensor = oracle(family)(torch.tensor([ids])).last_hidden_state[0].double().mean(0)
    return mean


def embed(engine: Engine, asked: list[list[int]]) -> list[torch.Tensor]:
    requests = [engine.add(ids, pool=True) for ids in asked]
    while engine.has_work:
        engine.step()
    assert all(r.finish_reason == "stop" and not r.output_ids for r in requests)
    return [torch.tensor(engine.output(r.id).vector, dtype=torch.float64) for r in requests]


def assert_close(got: list[torch.Tensor], wanted: list[torch.Tensor], tolerance: float = 1e-4) -> None:
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_equal_transformers(family: str) -> None:
    """Among them a prompt of one token, and ones that are cut into chunks of 64 tokens and less."""
    asked = [[7], *prompts(4, seed=2), *prompts(2, seed=3, longest=200)]
    got = embed(tiny_engine(family), asked)
    assert_close(got, [expected(family, ids) for ids in asked])


@pytest.mark.skipif(native() is None, reason="the native kernels are not built here")
@pytest.mark.parametrize(
    ("kernels", "cache", "tolerance"),
    [("native-fp32", "f32", 1e-4), ("native-fp32", "f16", 5e-3), ("native", "f16", 0.05)],
)
def test_native_kernels_give_the_same(kernels: str, cache: str, tolerance: float) -> None:
    """Twice each, so that the shapes of steps come again."""
    asked = [ids for ids in prompts(3, seed=5, longest=100) for _ in range(2)]
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "cache_format": cache}
    engine = tiny_engine(device=CpuDevice(kernels=kernels), engine=limits)  # type: ignore[arg-type]
    assert_close(embed(engine, asked), [expected("llama", ids) for ids in asked], tolerance)


def test_they_run_beside_generation_and_change_nothing() -> None:
    asked, others = prompts(5, seed=6, longest=150), prompts(5, seed=7)
    engine = tiny_engine(device=fake_device())
    requests = [engine.add(ids, PLAIN) for ids in others]
    vectors = embed(engine, asked)
    assert_close(vectors, [expected("llama", ids) for ids in asked])
    alone = tiny_engine()
    assert [r.output_ids for r in requests] == [alone.generate([o], PLAIN)[0].token_ids for o in others]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_scarce_memory_changes_nothing(preemption: str) -> None:
    """Prompts in chunks are thrown out half way, and go on or begin anew."""
    limits = {"cache_blocks": 16, "max_num_seqs": 4, "max_num_batched_tokens": 6, "max_context": 200}
    engine = tiny_engine(engine={**limits, "preemption": preemption})
    asked = [(p * 150)[:150] for p in prompts(4, seed=8)]
    pooled = []
    for ids in asked:
        for prompt in prompts(3, seed=len(pooled)):
            engine.add((prompt * 20)[:20], SamplingParams(max_tokens=60, ignore_eos=True))
        pooled.append(engine.add(ids, pool=True))
    while engine.has_work:
        engine.step()
    assert sum(r.num_preemptions for r in pooled) > 0
    got = [torch.tensor(engine.output(r.id).vector, dtype=torch.float64) for r in pooled]
    assert_close(got, [expected("llama", ids) for ids in asked])
    check(engine.scheduler)
    assert engine.scheduler.blocks.num_used == 0


def test_no_prefix_is_shared() -> None:
    engine = tiny_engine()
    ids = prompts(1, seed=9, longest=60)[0] + list(range(3, 60))
    engine.generate([ids], PLAIN)
    before = engine.totals.prompt_tokens
    first, second = embed(engine, [ids]), embed(engine, [ids])
    assert engine.totals.prompt_tokens - before == 2 * len(ids)
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("name", ON_ONE)
def test_techniques_leave_no_token_out(name: str) -> None:
    """Techniques that change nothing about the model's states give the same vectors; a prompt filter does not
    shorten what is embedded."""
    asked = prompts(3, seed=10, longest=120)
    engine = tiny_engine(techniques=uses(name))
    got = embed(engine, asked)
    assert engine.totals.prompt_tokens == sum(map(len, asked))
    if name in ("copyspec", "sarathi", "gemfilter"):
        assert_close(got, [expected("llama", ids) for ids in asked])
    else:
        assert all(v.isfinite().all() and v.norm() > 0 for v in got)


def test_a_cancelled_one_has_no_vector_and_leaves_nothing_behind() -> None:
    engine = tiny_engine(engine={"max_num_batched_tokens": 16, "max_num_seqs": 4, "max_context": 256})
    request = engine.add([5] * 100, pool=True)
    engine.step()
    assert engine.scheduler.blocks.num_used > 0
    assert engine.cancel(request.id)
    assert engine.scheduler.blocks.num_used == 0
    assert engine.output(request.id).vector is None
    check(engine.scheduler)


def test_a_prompt_may_fill_the_context() -> None:
    engine = tiny_engine()
    assert_close(embed(engine, [[5] * 256]), [expected("llama", [5] * 256)])
    with pytest.raises(ValueError, match="257 tokens, but the context ends at 256"):
        engine.add([5] * 257, pool=True)


def test_what_is_refused() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="no sampling parameters"):
        engine.add([5], PLAIN, pool=True)
    with pytest.raises(ValueError, match="empty prompt"):
        engine.add([], pool=True)
    plan = Plan.from_dict({"model": "llama-3.1-8b", "device": "h100-sxm"})

    modelled = build_engine(plan, make_device("h100-sxm"), find_spec("llama-3.1-8b"))
    with pytest.raises(ValueError, match="use a real device"):
        modelled.add(5, pool=True)
    assert not engine.has_work


def test_pooling_is_an_op_like_others() -> None:
    """Rows of each sequence are summed in float32, and every byte is counted."""
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    op = Pool(10, 6, 2, 2)
    out = TorchDevice("cpu").execute(op, x, [7, 3])
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.stack([x[:7].float().sum(0), x[7:].float().sum(0)]))
    cost = op.cost()
    assert (cost.bytes_read, cost.bytes_written) == (x.numel() * 2, out.numel() * 4)
    assert (cost.flop, cost.vector_flop) == (0, 60)
