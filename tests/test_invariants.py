"""The seven invariants that the design rests on, each by its name."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.test_engine import prompts
from tests.tiny import VOCAB, tiny_checkpoint, tiny_engine, tiny_plan, tiny_target
from torch.utils.flop_counter import FlopCounterMode

from twofold.devices.base import Model, StepCost
from twofold.devices.clock import VirtualClock
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.devices.torch_device import TorchDevice
from twofold.engine.active import NotReachedError
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.kernels.reference.attention import attend_sequence
from twofold.measure.quality import QualityBaseline, measure_quality
from twofold.models.cache import Heads
from twofold.models.step import StepInput
from twofold.ops.base import Cost, Op
from twofold.plan import QualityPlan
from twofold.techniques.pairs import all_pairs
from twofold.techniques.registry import technique_class, technique_names

USES: dict[str, dict[str, Any]] = {
    "aggressive-decoding": {},
    "alisa": {"p1": 16, "p2": 40, "beta": 0.5, "local_steps": 8},
    "bfp-outlier-reorder": {"block": 4},
    "bipolar-int": {"wbits": 3, "abits": 4, "group": 32},
    "copyspec": {},
    "elastic-cache": {"ratio": 0.5},
    "fastswitch": {"frequency": 0.25, "group": 4},
    "flashattention": {"sram": 8192},
    "flashattention-2": {"query_block": 16, "key_block": 16},
    "flexgen-offload": {"weights_device": 0.5},
    "gemfilter": {"keep": 24, "layer": 1},
    "gptq": {"group_size": 32},
    "h2o": {"heavy_ratio": 0.2, "recent_ratio": 0.2},
    "had": {"n": 8, "context": 16},
    "int-vs-fp": {"format": "mxint8"},
    "kivi": {"bits": 4, "group": 16, "residual": 32},
    "lean-attention": {"tile": 16, "workers": 7},
    "llm-drop": {"num": 1},
    "llm-in-a-flash": {"active": 0.5},
    "llumnix": {"interval": 0.0, "migrate_out": 200.0, "migrate_in": 200.0},
    "lut-gemm": {"q": 3, "g": 32},
    "minference": {"vertical_size": 2, "slash_size": 14, "last_q": 8, "block_size": 16},
    "olive": {},
    "on-die-ecc": {"error_rate": 1e-3},
    "retrievalattention": {
        "initial": 4,
        "recent": 32,
        "top_k": 4,
        "search_list": 8,
        "degree": 4,
        "query_neighbours": 8,
        "build_list": 16,
    },
    "sarathi": {"chunk": 32, "tile": 16},
    "smoothquant": {},
    "snapkv": {"window_size": 4, "max_capacity_prompt": 16, "kernel_size": 3},
    "sparf": {"compression": 4, "group": 4},
    "spatten": {},
    "splitwise": {},
    "streaming-llm": {"start_size": 2, "recent_size": 10},
    "triforce": {"gamma": 4, "budget": 32, "draft_cache_budget": 64, "rebuild": 16},
    "tvw-sparsity": {"granularity": 16},
    "two-model-speculation": {},
    "two-pass-softmax": {},
    "vattention": {"page_size": 4096},
    "vtensor": {"chunk_size": 4096},
    "wanda": {},
    "zipvl": {"probes": 4, "tau": 0.8},
}
"""Every technique with parameters that fit the tiny model."""

ON_ONE = sorted(n for n in USES if technique_class(n).from_params(USES[n]).fleet_policy() is None)
"""Those that work within one engine."""

LOSSLESS = [name for name in technique_names() if technique_class(name).info.lossless]
LOSSY = [name for name in technique_names() if not technique_class(name).info.lossless]


def uses(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "params": USES[name]} for name in names]


def repetitive(count: int) -> list[list[int]]:
    """Prompts that repeat themselves, so that drafters find something."""
    return [(p[:12] * 6)[:60] for p in prompts(count, seed=11, longest=60)]


def test_every_technique_is_covered_here() -> None:
    assert sorted(USES) == technique_names()


# --- 1 ---


def seconds_of(device: Any, num_tokens: int) -> StepCost:
    """Step times that both devices are given: a constant and a little per token."""
    del device
    return StepCost(1e-3 + 1e-5 * num_tokens, 0.0, [1e-3 + 1e-5 * num_tokens])


class TimedCpu(TorchDevice):
    """Computes for real, but under a virtual clock with prescribed step times."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.clock = VirtualClock()  # type: ignore[assignment]

    def end_step(self) -> StepCost:
        tokens = next((op.tokens for op in self._ops if type(op).__name__ == "Embedding"), 0)  # type: ignore[attr-defined]
        super().end_step()
        return seconds_of(self, tokens)


class TimedModel(ModelledDevice):
    """Computes nothing; the same step times."""

    name = "timed"
    confidence = "datasheet"

    def __init__(self) -> None:
        super().__init__()
        self.memory = {"device": 10**10}
        self.native_precision = "fp32"
        self.tokens = 0

    def charge(self, op: Op, cost: Cost) -> Charge:
        return Charge(0.0, 0.0, "memory")

    def begin_step(self) -> None:
        super().begin_step()
        self.tokens = 0

    def forward(self, model: Model, step: StepInput) -> None:
        self.tokens = step.num_tokens
        super().forward(model, step)

    def end_step(self) -> StepCost:
        return seconds_of(self, self.tokens)


@pytest.mark.parametrize(
    "techniques", [(), ("sarathi",), ("kivi", "sarathi"), ("int-vs-fp",), ("fastswitch",)]
)
def test_1_schedule_does_not_depend_on_the_device(techniques: tuple[str, ...]) -> None:
    limits = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 48,
        "max_context": 256,
        "cache_blocks": 9,
        "block_size": 16,
    }
    plan = tiny_plan(techniques=uses(*techniques), engine={**limits, "prefix_caching": False})
    checkpoint = tiny_checkpoint()
    logs = []
    asked = prompts(12, seed=5)
    for device in (TimedCpu(), TimedModel()):
        engine = build_engine(plan, device, checkpoint.spec, checkpoint)
        log: list[Any] = []
        schedule = engine.scheduler.schedule

        def recorded(now: float, schedule: Any = schedule, log: list[Any] = log) -> Any:
            batch = schedule(now)
            log.append(
                (
                    now,
                    [(e.request.id, e.start, e.num_tokens, e.slot) for e in batch.entries],
                    len(batch.preempted),
                )
            )
            return batch

        engine.scheduler.schedule = recorded  # type: ignore[method-assign]
        # Predictions do not ask the scheduler about steps before which nothing is to be decided.
        engine.coast = lambda until: False  # type: ignore[method-assign]
        params = SamplingParams(max_tokens=20, ignore_eos=True)
        engine.play([(0.002 * i, p if device.real else len(p), params) for i, p in enumerate(asked)])
        logs.append(log)
    assert logs[0] == logs[1]
    assert len(logs[0]) > 20
    assert techniques or any(preempted for _, _, preempted in logs[0]), (
        "memory was never short: nothing was tested"
    )


# --- 2 ---


STORED = [(name, "llama") for name in ("", *technique_names())] + [
    (name, family) for name in ("", "kivi", "int-vs-fp") for family in ("gemma3", "mixtral", "qwen3", "gpt2")
]
"""(technique, family): all on one family, those that change how things are stored on others too."""


@pytest.mark.parametrize(("name", "family"), STORED)
def test_2_bytes_are_counted(name: str, family: str) -> None:
    techniques = uses(name) if name else []
    real = tiny_target(family, techniques=techniques).engines[0]
    target = tiny_target(family, make=TimedModel, techniques=techniques, precision="fp32")
    modelled = target.engines[0]
    model = real.runner.model
    assert model.allocated() == model.weight_bytes() == real.memory.weights
    assert modelled.runner.model.weight_bytes() == model.weight_bytes()
    assert modelled.runner.model.allocated() == 0
    assert sum(c.allocated for c in real.runner.caches) == real.memory.cache
    size = real.runner.size
    per_block, per_seq = (
        sum(getattr(c, what)() for c in modelled.runner.caches) for what in ("block_bytes", "sequence_bytes")
    )
    assert real.memory.cache == size.num_blocks * per_block + size.max_seqs * per_seq


# --- 3 ---


COUNTED = [("", family) for family in ("llama", "gemma3", "mixtral", "qwen2_moe", "phi3", "gpt2", "opt")] + [
    (name, "llama") for name in technique_names()
]


@pytest.mark.parametrize(("name", "family"), COUNTED)
def test_3_flop_are_counted(name: str, family: str) -> None:
    engine = tiny_target(family, techniques=uses(name) if name else [])
    asked = repetitive(3)
    engine.reset_totals()
    with FlopCounterMode(display=False) as counter:
        engine.generate(asked, SamplingParams(max_tokens=8, ignore_eos=True))
    counted = sum(t.flop for each in engine.engines for t in each.device.totals.values())
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


# --- 4 ---


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_4_lossless_means_equal(name: str, family: str) -> None:
    asked = repetitive(6) + prompts(6, seed=2)
    params = SamplingParams(max_tokens=24, ignore_eos=True)
    engine = tiny_target(family, techniques=uses(name))
    got = [c.token_ids for c in engine.generate(asked, params)]
    assert got == [c.token_ids for c in tiny_engine(family).generate(asked, params)]
    engine.check_techniques()


# --- 5 ---


class Numbers:
    """A tokenizer of numbers: enough to measure quality on a model that knows no text."""

    eos_ids = frozenset[int]()
    bos_id = None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [3 + (ord(c) * 7 + i) % (VOCAB - 3) for i, c in enumerate(text[:4000])]

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return " ".join(map(str, ids))

    def chat(self, messages: list[dict[str, str]], *, generate: bool = True) -> str:
        raise ValueError("no template")


def with_tokenizer(engine: Engine) -> Engine:
    engine.tokenizer = Numbers()
    return engine


@pytest.mark.parametrize("name", LOSSY)
def test_5_lossy_is_measured(name: str) -> None:
    plan = QualityPlan(tokens=48, window=64, passkey=(240,), passkey_trials=1)
    wide = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 512}
    baseline = QualityBaseline.of(with_tokenizer(tiny_engine(engine=wide)), plan)
    same = measure_quality(with_tokenizer(tiny_engine(engine=wide)), baseline)
    assert same.kl_divergence is not None
    assert same.kl_divergence.mid < 1e-6
    assert same.top1_agreement is not None
    assert same.top1_agreement.mid == 1.0
    quality = measure_quality(with_tokenizer(tiny_engine(engine=wide, techniques=uses(name))), baseline)
    assert quality.kl_divergence is not None
    assert quality.perplexity is not None
    assert 1e-7 < quality.kl_divergence.mid < math.inf, "a lossy technique that changes nothing is not on"
    assert quality.perplexity.mid > 1.0
    assert set(quality.passkey) == {240}


# --- 6 ---


@settings(max_examples=40, deadline=None)
@given(
    queries=st.integers(1, 150),
    before=st.integers(0, 90),
    kv_heads=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 4]),
    dim=st.sampled_from([8, 20, 64]),
    window=st.sampled_from([None, 1, 7, 64, 100]),
    softcap=st.sampled_from([None, 5.0]),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_6_attention_kernel_equals_an_independent_reference(
    queries: int,
    before: int,
    kv_heads: int,
    group: int,
    dim: int,
    window: int | None,
    softcap: float | None,
    size: float,
) -> None:
    entries, heads = queries + before, kv_heads * group
    generator = torch.Generator().manual_seed(queries * 1000 + before)
    q = torch.randn(queries, heads, dim, generator=generator) * size
    k = torch.randn(entries, kv_heads, dim, generator=generator) * size
    v = torch.randn(entries, kv_heads, dim, generator=generator)
    ours = attend_sequence(q, k, v, Heads(heads, kv_heads, dim, dim, 0.3, softcap, window, "fp32", 4))
    wide_k, wide_v = (t.repeat_interleave(group, dim=1).permute(1, 0, 2).double() for t in (k, v))
    scores = torch.einsum("qhd,hkd->hqk", q.double(), wide_k) * 0.3
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    distance = (before + torch.arange(queries))[:, None] - torch.arange(entries)[None]
    seen = (distance >= 0) & (distance < (window or entries))
    theirs = (scores.masked_fill(~seen, -math.inf).softmax(-1) @ wide_v).permute(1, 0, 2).reshape(queries, -1)
    assert torch.allclose(ours.double(), theirs, atol=2e-4 * max(1.0, size))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_6_norm_kernels_equal_torch(scale: float) -> None:
    from twofold.kernels.reference.elementwise import normalise

    x, weight, bias = torch.randn(5, 37) * scale, torch.randn(37), torch.randn(37)
    rms = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert torch.allclose(normalise(x, "rms", weight, None, 1e-5).double(), rms, rtol=1e-5, atol=1e-6)
    layer = F.layer_norm(x.double(), (37,), weight.double(), bias.double(), 1e-5)
    assert torch.allclose(normalise(x, "layer", weight, bias, 1e-5).double(), layer, rtol=1e-4, atol=1e-5)


# --- 7 ---


PARTNERS = {"copyspec", "int-vs-fp", "kivi", "sarathi", "snapkv"}
"""One technique of each kind, beside which every other one is always tried; all pairs take minutes."""


def pair_cases() -> list[Any]:
    """Every pair: those without a partner are long, but for those that are refused."""
    return [
        pytest.param(
            pair,
            id=f"{pair.first}+{pair.second}",
            marks=() if not pair.allowed or {pair.first, pair.second} & PARTNERS else pytest.mark.long,
        )
        for pair in all_pairs()
    ]


def asked_of_pairs() -> list[list[int]]:
    return repetitive(4) + prompts(2, seed=8)


@cache
def plain_answers() -> tuple[list[list[int]], torch.Tensor]:
    """What the unmodified model answers to these, and its logits for the first."""
    asked, engine = asked_of_pairs(), tiny_engine()
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    answers = [c.token_ids for c in engine.generate(asked, params)]
    return answers, engine.score(asked[0], len(asked[0]) // 2)


@pytest.mark.parametrize("pair", pair_cases())
def test_7_every_pair_runs_or_is_refused_with_a_reason(pair: Any) -> None:
    techniques = uses(pair.first, pair.second)
    if not pair.allowed:
        assert len(pair.reason) > 30
        with pytest.raises(ValueError, match=pair.first):
            tiny_target(techniques=techniques)
        return
    asked = asked_of_pairs()
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    engine = tiny_target(techniques=techniques)
    got = [c.token_ids for c in engine.generate(asked, params)]
    assert all(len(ids) == 16 for ids in got)
    engine.check_techniques()
    answers, plain = plain_answers()
    if {pair.first, pair.second} <= set(LOSSLESS):
        assert got == answers
    else:
        logits = engine.engines[0].score(asked[0], len(asked[0]) // 2)
        kl = (plain.softmax(-1) * (plain.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean()
        assert -1e-6 <= float(kl) < 20


def test_7_two_of_a_kind_are_refused() -> None:
    first, second = technique_class("kivi").info, technique_class("kivi").info
    from twofold.techniques.pairs import conflict

    assert "cannot be combined" in conflict(first, second)


def test_a_technique_that_is_never_reached_is_an_error() -> None:
    engine = tiny_engine(techniques=uses("gemfilter"))
    engine.generate([[5, 6, 7]], SamplingParams(max_tokens=2, ignore_eos=True))
    with pytest.raises(NotReachedError, match="gemfilter was asked for but never reached"):
        engine.check_techniques()
