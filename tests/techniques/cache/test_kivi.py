"""KIVI as a technique: its parameters, what it refuses, and a small model run with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models.tiny import VOCAB, tiny_hf_dir

from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheSize
from twofold.models.catalog import get_spec
from twofold.models.loading import load_checkpoint
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.cache.kivi import Kivi, KiviScheme
from twofold.techniques.cache.kivi_cache import KiviCache
from twofold.techniques.registry import make_technique

LENGTH, BLOCK, NUM_BLOCKS, MAX_SEQS = 76, 16, 8, 2


def make_model(directory: Path, scheme: KiviScheme | None) -> Transformer:
    checkpoint = load_checkpoint(directory)
    model = build_model(checkpoint.spec, ModelOptions(block_size=BLOCK, cache=scheme), checkpoint)
    for cache in model.caches:
        cache.allocate(CacheSize(NUM_BLOCKS, BLOCK, MAX_SEQS), torch.device("cpu"))
    return model


@torch.inference_mode()
def logits(model: Transformer, ids: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """Logits of all positions, computed in steps that end at `cuts`."""
    device, parts, start = TorchDevice("cpu"), [], 0
    for end in cuts:
        slots, positions = torch.arange(end), torch.arange(start, end)
        count = end - start
        step = StepInput(
            [Span(count, end)], count, count, ids[start:end], positions, slots[start:], [slots], [0]
        )
        device.begin_step()
        out = model.forward(step, device)
        device.end_step()
        assert out is not None
        parts.append(out)
        start = end
    return torch.cat(parts)


def divergence(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL divergence of `other` from `reference`, in nats."""
    p, q = reference.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1))


DECODE = [40, *range(41, 54), 60, LENGTH]
"""A prompt, tokens one by one while the window of keys fills and is packed, and two chunks."""


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_a_model_stays_close_and_more_bits_are_closer(family: str, tmp_path: Path, ids: torch.Tensor) -> None:
    directory = tiny_hf_dir(family, tmp_path)
    dense = logits(make_model(directory, None), ids, DECODE)
    far = []
    for bits in (2, 4, 8):
        scheme = KiviScheme(bits, 8, 24)
        out = logits(make_model(directory, scheme), ids, DECODE)
        # The prompt attends in full precision; the first decoded token is the first to see packed entries.
        assert torch.equal(out[:40], dense[:40])
        assert not torch.equal(out[40], dense[40])
        assert scheme.counters["packed_tokens_read"] > 0
        far.append(divergence(dense[40:], out[40:]))
    # Divergence grows with the square of the error: steps of a group are 5 and 17 times finer.
    assert far[0] > 4 * far[1] > 100 * far[2] > 0
    assert far[2] < 1e-3


def test_outputs_are_those_of_the_dense_model_while_the_window_holds_everything(
    tmp_path: Path, ids: torch.Tensor
) -> None:
    directory = tiny_hf_dir("llama", tmp_path)
    dense = logits(make_model(directory, None), ids, DECODE)
    scheme = KiviScheme(2, 8, 128)
    assert torch.equal(logits(make_model(directory, scheme), ids, DECODE), dense)
    assert scheme.counters["packed_tokens_read"] == 0
    assert scheme.counters["full_tokens_read"] > 0


def test_counted_cache_bytes_are_the_allocated_ones(tmp_path: Path) -> None:
    model = make_model(tiny_hf_dir("gemma3", tmp_path), KiviScheme(2, 8, 24))
    counted = sum(NUM_BLOCKS * c.block_bytes() + MAX_SEQS * c.sequence_bytes() for c in model.caches)
    assert sum(c.allocated for c in model.caches) == counted > 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 3}, "bits must be one of 2, 4, 8, not 3"),
        ({"group": 12}, "multiple of 8, not 12; use 16"),
        ({"group": 0}, "multiple of 8, not 0; use 8"),
        ({"group": -8}, "use 8"),
        ({"residual": 100}, r"multiple of group \(32\), not 100; use 96"),
        ({"residual": 0}, "not 0; use 32"),
        ({"residul": 64}, "did you mean 'residual'"),
        ({"bits": "two"}, "bits must be int"),
    ],
)
def test_wrong_parameters_are_refused_with_the_nearest_fix(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("kivi", params)


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        ("deepseek-v3", {}, "one latent per token"),
        (
            "phi-3-mini",
            {"group": 64, "residual": 64},
            "96 wide, which is not a multiple of group=64; use group=48",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(model: str, params: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kivi(**params).check(get_spec(model))


@pytest.mark.parametrize("model", ["llama-2-7b", "phi-3-mini", "gemma-3-27b", "smollm2-135m"])
def test_models_that_fit(model: str) -> None:
    Kivi().check(get_spec(model))


def test_blocks_must_hold_whole_groups() -> None:
    scheme = Kivi(group=32).cache_scheme()
    assert scheme.block_multiple == 32
    options = ModelOptions(block_size=40, cache=scheme)
    with pytest.raises(ValueError, match=r"blocks of 40 tokens .* use block_size=32"):
        build_model(get_spec("llama-2-7b"), options)


def test_it_is_lossy_and_excludes_other_storage() -> None:
    info = Kivi.info
    assert not info.lossless
    assert set(info.provides) & set(info.excludes)
    assert all(info.reason(tag) for tag in info.excludes)


def engine_for(directory: Path, **limits: object) -> Engine:
    checkpoint = load_checkpoint(directory)
    technique = {"name": "kivi", "group": 8, "residual": 24}
    plan = Plan.from_dict(
        {
            "model": str(directory),
            "precision": "fp32",
            "techniques": [technique],
            "workload": {"prompt": 32, "output": 32},
            "engine": limits,
        }
    )
    return build_engine(plan, TorchDevice("cpu"), checkpoint.spec, checkpoint)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in (20, 60, 33)]


def test_a_batch_yields_what_each_request_yields_alone(tmp_path: Path) -> None:
    directory, params = tiny_hf_dir("llama", tmp_path), SamplingParams(max_tokens=30, ignore_eos=True)
    engine = engine_for(directory)
    together = [c.token_ids for c in engine.generate(prompts(), params)]
    engine.check_techniques()
    assert engine.derived["prefix_caching"] is False
    assert together == [engine_for(directory).generate([p], params)[0].token_ids for p in prompts()]


def test_preemption_gives_the_row_back(tmp_path: Path) -> None:
    directory, params = tiny_hf_dir("llama", tmp_path), SamplingParams(max_tokens=30, ignore_eos=True)
    engine = engine_for(directory, cache_blocks=9)
    outputs = engine.generate(prompts(), params)
    assert engine.scheduler.num_preempted > 0
    assert [len(c.token_ids) for c in outputs] == [30, 30, 30]
    for cache in engine.runner.caches:
        assert isinstance(cache, KiviCache)
        assert not cache.lengths.any()


def test_swapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use preemption: recompute"):
        engine_for(tiny_hf_dir("llama", tmp_path), preemption="swap")
