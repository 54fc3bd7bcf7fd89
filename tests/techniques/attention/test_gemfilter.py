"""GemFilter selects what the source's algorithm selects, and the model goes on with exactly those tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tests.models.tiny import VOCAB, tiny_hf_dir
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from twofold.devices.modelled import Charge, ModelledDevice
from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models import layer_pass
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.loading import load_checkpoint
from twofold.models.parallel import Parallel
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.ops.base import Cost, Op
from twofold.plan import Plan
from twofold.techniques.attention.gemfilter import GemFilter
from twofold.techniques.attention.token_scores import LastQueryScores, SelectTokens, last_query_scores
from twofold.techniques.layers.llm_drop import LlmDrop

LENGTH = 60
LAYERS = 6


class FreeDevice(ModelledDevice):
    """A modelled device on which everything is free: it counts."""

    def charge(self, op: Op, cost: Cost) -> Charge:
        return Charge(0.0, 0.0, "compute")


def prompt() -> torch.Tensor:
    return torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(3))


def load(directory: Path, **options: Any) -> Transformer:
    checkpoint = load_checkpoint(str(directory))
    return build_model(checkpoint.spec, ModelOptions(**options), checkpoint)


def select(model: Transformer, technique: GemFilter, ids: torch.Tensor) -> list[int]:
    step = StepInput([Span(len(ids), len(ids))], len(ids), 0, ids, torch.arange(len(ids)))
    with torch.inference_mode():
        kept = technique.prompt_filter().select(model, TorchDevice("cpu"), step)
    assert kept is not None
    return [int(i) for i in kept]


def reference_selection(model: Any, ids: torch.Tensor, layer: int, keep: int, kernel: int) -> list[int]:
    """The source's algorithm on transformers' own layer: scores per head, summed, averaged, the highest."""
    with torch.no_grad():
        hidden = model(ids[None], output_hidden_states=True).hidden_states[layer]
        block = model.model.layers[layer]
        x, attention = block.input_layernorm(hidden), block.self_attn
        shape = (1, len(ids), -1, attention.head_dim)
        q, k = attention.q_proj(x).view(shape), attention.k_proj(x).view(shape)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        cos, sin = model.model.rotary_emb(x, torch.arange(len(ids))[None])
        q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = (q[:, :, -1:] @ k.transpose(2, 3)).sum(1)
        pooled = F.avg_pool1d(scores, kernel, stride=1, padding=kernel // 2)[0, 0]
        return sorted(pooled.topk(keep).indices.tolist())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(("layer", "chunk"), [(0, 4096), (3, 4096), (3, 13)])
def test_selects_as_the_source_does(
    family: str, layer: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_pass, "CHUNK", chunk)
    directory = tiny_hf_dir(family, tmp_path, num_hidden_layers=LAYERS)
    reference = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    expected = reference_selection(reference, prompt(), layer, 20, 5)
    assert select(load(directory), GemFilter(layer=layer, keep=20), prompt()) == expected
    # The choice is one: another layer, or no averaging, selects others.
    assert expected != reference_selection(reference, prompt(), layer + 1, 20, 5)
    assert expected != reference_selection(reference, prompt(), layer, 20, 1)


def test_engine_goes_on_with_the_kept_tokens_alone(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    checkpoint = load_checkpoint(str(directory))
    ids, greedy = prompt().tolist(), SamplingParams(max_tokens=12, ignore_eos=True)
    plain = build_engine(Plan(model=str(directory)), TorchDevice("cpu"), checkpoint.spec, checkpoint)
    uses = ({"name": "gemfilter", "keep": 16},)
    plan = Plan.from_dict({"model": str(directory), "techniques": list(uses)})
    engine = build_engine(plan, TorchDevice("cpu"), checkpoint.spec, checkpoint)
    kept = select(engine.runner.model, GemFilter(keep=16), prompt())
    assert len(kept) == 16
    (filtered,) = engine.generate([ids], greedy)
    (expected,) = plain.generate([[ids[i] for i in kept]], greedy)
    assert filtered.token_ids == expected.token_ids
    assert filtered.token_ids != plain.generate([ids], greedy)[0].token_ids
    engine.check_techniques()
    wanted = {"prompts_filtered": 1, "tokens_kept": 16, "tokens_dropped": LENGTH - 16}
    assert engine.actives[0].counters == wanted
    # A prompt that is short enough is left alone.
    short = ids[:16]
    assert engine.generate([short], greedy)[0].token_ids == plain.generate([short], greedy)[0].token_ids
    assert engine.actives[0].counters == wanted


def test_modelled_pass_counts_what_the_real_one_does(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    spec = load_checkpoint(str(directory)).spec
    real, modelled = TorchDevice("cpu"), FreeDevice()
    technique = GemFilter(keep=16)
    ids = prompt()
    for device, model, tensors in (
        (real, load(directory), (ids, torch.arange(LENGTH))),
        (modelled, build_model(spec, ModelOptions()), (None, None)),
    ):
        chosen = technique.prompt_filter()
        for _ in range(2):
            device.begin_step()
            with torch.inference_mode():
                kept = chosen.select(model, device, StepInput([Span(LENGTH, LENGTH)], LENGTH, 0, *tensors))
            device.end_step()
        assert (kept is None) == (device is modelled)
        assert chosen.counters == {
            "prompts_filtered": 2,
            "tokens_kept": 32,
            "tokens_dropped": 2 * LENGTH - 32,
        }
    assert modelled.totals.keys() == real.totals.keys()
    for kind, counted in real.totals.items():
        other = modelled.totals[kind]
        assert (other.calls, other.flop) == (counted.calls, counted.flop), kind
        # A modelled device walks through one layer of a kind: the first, whose first norm has nothing to add.
        assert kind == "norm" or other.bytes_moved == counted.bytes_moved, kind
    # Layers before the selecting one attend; that one only projects.
    layer = technique.selecting_layer(spec, list(range(LAYERS)))
    assert modelled.totals["attention"].calls == 2 * layer
    assert modelled.totals["rotary"].calls == 2 * (layer + 1)


def test_parallel_pass_sums_scores_and_crosses_stages() -> None:
    spec = get_spec("llama-3.1-8b")
    model = build_model(spec, ModelOptions("bf16", Parallel(tp=2, pp=4)))
    device = FreeDevice()
    device.begin_step()
    GemFilter().prompt_filter().select(model, device, StepInput([Span(9000, 9000)], 9000, 0))
    device.end_step()
    # 13 layers of 3 chunks with two sums each, one sum of scores, one crossing from stage 0 to stage 1.
    assert device.totals["collective"].calls == 13 * 3 * 2 + 1 + 1
    assert device.totals["attention"].calls == 13 * 3


def test_flop_are_what_torch_counts() -> None:
    op = LastQueryScores(tokens=50, heads=6, kv_heads=2, head_dim=8, act_bytes=4)
    with FlopCounterMode(display=False) as counter:
        scores = last_query_scores(op, torch.randn(6, 8), torch.randn(50, 2, 8))
    assert scores.shape == (50,)
    assert counter.get_total_flops() == op.cost().flop
    assert op.cost().bytes_moved == (50 * 16 + 48) * 4 + 50 * 4
    assert SelectTokens(50, 10, 5).cost().bytes_moved == 50 * 4 + 10 * 8


def test_default_layer_is_the_sources() -> None:
    llama = get_spec("llama-3.1-8b")
    for family, num_layers, layer in (
        ("llama", 32, 13),
        ("mistral", 40, 19),
        ("phi3", 32, 19),
        ("opt", 32, 13),
    ):
        spec = replace(llama, family=family, num_layers=num_layers)
        assert GemFilter().selecting_layer(spec, list(range(num_layers))) == layer
    assert GemFilter().prompt_filter().kept(131072) == 1024
    assert GemFilter().prompt_filter().kept(1000) == 1000


def test_sliding_windows(tmp_path: Path) -> None:
    directory = tiny_hf_dir("gemma3", tmp_path)  # layers 1 and 3 of 4 are global
    model = load(directory)
    GemFilter().check(model.spec)
    assert GemFilter().selecting_layer(model.spec, [1, 3]) == 1
    assert len(select(model, GemFilter(keep=10), prompt())) == 10
    with pytest.raises(
        ValueError, match=r"layer 2 of .* does not attend to the whole.*nearest that does is 1"
    ):
        GemFilter(layer=2).check(model.spec)
    with pytest.raises(ValueError, match=r"layer 9 of .* does not exist; the nearest that does is 3"):
        GemFilter(layer=9).check(model.spec)
    sliding = load_checkpoint(str(tiny_hf_dir("mistral", tmp_path))).spec
    with pytest.raises(ValueError, match=r"no layer of .* attends to the whole prompt"):
        GemFilter().check(sliding)


def test_latent_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="caches one latent"):
        GemFilter().check(get_spec("deepseek-v3"))


def test_dropped_layers_are_stepped_around(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    wanted = GemFilter().selecting_layer(load(directory).spec, list(range(LAYERS)))
    drop = LlmDrop(attention_layers=(wanted,))
    model = load(directory, selection=drop.layer_selection())
    assert len(select(model, GemFilter(keep=8), prompt())) == 8
    with pytest.raises(ValueError, match=rf"layer {wanted} of .* does not attend"):
        select(model, GemFilter(layer=wanted, keep=8), prompt())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"keep": 0}, "keep must be at least 1"),
        ({"layer": -1}, "layer must be 0 or more"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"kep": 5}, "unknown parameter 'kep'"),
    ],
)
def test_parameters_are_checked(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GemFilter.from_params(params)
