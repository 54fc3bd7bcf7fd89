"""LLM-Drop leaves sublayers out for real, and chooses those that change their input least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tests.models.tiny import VOCAB, tiny_hf_dir

from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheSize
from twofold.models.catalog import get_spec
from twofold.models.loading import load_checkpoint
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.layers.llm_drop import LlmDrop

LENGTH = 40
LAYERS = 6


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(5))


def load(directory: Path, technique: LlmDrop | None = None) -> Transformer:
    checkpoint = load_checkpoint(str(directory))
    selection = None if technique is None else technique.layer_selection()
    return build_model(checkpoint.spec, ModelOptions(selection=selection), checkpoint)


def logits(model: Transformer, device: TorchDevice) -> torch.Tensor:
    for cache in model.caches:
        cache.allocate(CacheSize(4, 16, 1), torch.device("cpu"))
    slots = torch.arange(LENGTH)
    step = StepInput([Span(LENGTH, LENGTH)], LENGTH, LENGTH, tokens(), slots, slots, [slots], [0])
    device.begin_step()
    with torch.inference_mode():
        out = model.forward(step, device)
    device.end_step()
    assert out is not None
    return out


def reference(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def silence(model: Any, attention: Sequence[int], mlp: Sequence[int]) -> None:
    """Let sublayers of a transformers model add nothing: what dropping them must equal."""
    with torch.no_grad():
        for layer in attention:
            model.model.layers[layer].self_attn.o_proj.weight.zero_()
        for layer in mlp:
            model.model.layers[layer].mlp.down_proj.weight.zero_()


@pytest.mark.parametrize(
    ("attention", "mlp"), [((1, 4), ()), ((), (0, 5)), ((0, 2, 3), (2, 3)), ((0, 1, 2, 3, 4), (5,))]
)
def test_equals_transformers_without_those_sublayers(
    attention: tuple[int, ...], mlp: tuple[int, ...], tmp_path: Path
) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    technique = LlmDrop(attention_layers=attention, mlp_layers=mlp)
    device = TorchDevice("cpu")
    found = logits(load(directory, technique), device)
    changed = reference(directory)
    silence(changed, attention, mlp)
    with torch.no_grad():
        expected = changed(tokens()[None]).logits[0]
    assert (found.softmax(-1) - expected.softmax(-1)).abs().max() < 1e-4
    # Nothing of a dropped sublayer was executed.
    assert device.totals["attention"].calls == LAYERS - len(attention)
    assert device.totals["activation"].calls == LAYERS - len(mlp)


def test_frees_exactly_the_dropped_weights_and_cache(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    whole = load(directory)
    cut = load(directory, LlmDrop(attention_layers=(1, 4), mlp_layers=(2,)))
    first = whole.layers[0]
    assert first.attention is not None
    assert first.mlp is not None
    norm = whole.spec.hidden * 4
    attention = sum(m.nbytes for m in first.attention.matrices()) + norm
    mlp = sum(m.nbytes for m in first.mlp.matrices()) + norm
    freed = 2 * attention + mlp
    assert whole.weight_bytes() - cut.weight_bytes() == freed
    assert whole.allocated() - cut.allocated() == freed
    assert len(cut.caches) == LAYERS - 2
    for model in (whole, cut):
        for cache in model.caches:
            cache.allocate(CacheSize(4, 16, 1), torch.device("cpu"))
    held = [sum(cache.allocated for cache in model.caches) for model in (whole, cut)]
    assert held[0] - held[1] == 2 * 4 * first.attention.cache.block_bytes()


def measured_by_hooks(directory: Path) -> dict[str, list[float]]:
    """Cosine similarity of input and output of each sublayer, norm and residual included, by transformers."""
    model = reference(directory)
    found: dict[str, list[float]] = {"attention": [], "mlp": [], "block": []}
    inputs: list[torch.Tensor] = []

    def compare(kind: str, x: torch.Tensor, y: torch.Tensor) -> None:
        found[kind].append(float(F.cosine_similarity(x, y, dim=-1).mean()))

    def on_norm(module: Any, args: Any) -> None:
        inputs.append(args[0])

    def on_attention(module: Any, args: Any, out: Any) -> None:
        compare("attention", inputs[-1], inputs[-1] + out[0])

    def on_mlp(module: Any, args: Any, out: Any) -> None:
        compare("mlp", inputs[-1], inputs[-1] + out)
        compare("block", inputs[-2], inputs[-1] + out)

    for layer in model.model.layers:
        layer.input_layernorm.register_forward_pre_hook(on_norm)
        layer.post_attention_layernorm.register_forward_pre_hook(on_norm)
        layer.self_attn.register_forward_hook(on_attention)
        layer.mlp.register_forward_hook(on_mlp)
    with torch.no_grad():
        model(tokens()[None])
    return found


def top(scores: Sequence[float], count: int) -> tuple[int, ...]:
    return tuple(sorted(sorted(range(len(scores)), key=lambda i: scores[i])[-count:]))


def test_calibration_drops_what_changes_its_input_least(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    expected = measured_by_hooks(directory)
    model, device = load(directory), TorchDevice("cpu")

    def learn(**params: Any) -> LlmDrop:
        technique = LlmDrop(**params)
        assert technique.needs_calibration
        learned = technique.calibrate(model, device, tokens().tolist())
        assert not learned.needs_calibration
        found = learned.calibration
        assert found is not None
        for kind, scores in expected.items():
            assert found.of(kind) == pytest.approx(scores, abs=1e-5)
        return learned

    by_attention = learn(num=2)
    assert by_attention.attention_layers == top(expected["attention"], 2)
    assert by_attention.mlp_layers == ()
    by_mlp = learn(target="mlp", share=0.5)
    assert (by_mlp.attention_layers, by_mlp.mlp_layers) == ((), top(expected["mlp"], 3))
    by_block = learn(target="block", num=2)
    assert by_block.attention_layers == by_block.mlp_layers == top(expected["block"], 2)
    joint = learn(target="joint", num=5)
    ranked = top(expected["attention"] + expected["mlp"], 5)
    assert joint.attention_layers == tuple(i for i in ranked if i < LAYERS)
    assert joint.mlp_layers == tuple(i - LAYERS for i in ranked if i >= LAYERS)
    assert all(cache.allocated == 0 for cache in model.caches)


def test_one_attention_always_stays(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    learned = LlmDrop(target="joint", num=2 * LAYERS - 1).calibrate(
        load(directory), TorchDevice("cpu"), [1, 2, 3]
    )
    assert len(learned.attention_layers or ()) == LAYERS - 1
    assert len(learned.mlp_layers or ()) == LAYERS


def test_engine_calibrates_and_runs(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path, num_hidden_layers=LAYERS)
    checkpoint = load_checkpoint(str(directory))
    plan = Plan.from_dict({"model": str(directory), "techniques": ["llm-drop:num=2"]})
    asked = []

    def calibration() -> list[int]:
        asked.append(True)
        ids: list[int] = tokens().tolist()
        return ids

    engine = build_engine(plan, TorchDevice("cpu"), checkpoint.spec, checkpoint, calibration=calibration)
    assert asked
    engine.check_techniques()
    assert engine.actives[0].counters == {"sublayers_dropped": 2}
    expected = top(measured_by_hooks(directory)["attention"], 2)
    assert [i for i, x in enumerate(engine.runner.model.layers) if x.attention is None] == list(expected)
    (done,) = engine.generate([tokens().tolist()], SamplingParams(max_tokens=8, ignore_eos=True))
    changed = reference(directory)
    silence(changed, expected, ())
    with torch.no_grad():
        wanted = changed.generate(tokens()[None], max_new_tokens=8, min_new_tokens=8, do_sample=False)[
            0, LENGTH:
        ]
    assert list(done.token_ids) == wanted.tolist()


def test_prediction_assumes_the_deepest_but_the_last() -> None:
    spec = get_spec("llama-2-70b")
    whole = build_model(spec, ModelOptions("fp16"))
    selection = LlmDrop(num=40).layer_selection()
    cut = build_model(spec, ModelOptions("fp16", selection=selection))
    assert selection.counters == {"sublayers_dropped": 40}
    assert [x.index for x in cut.layers if x.attention is None] == list(range(39, 79))
    per_layer = (spec.attention_parameters() + spec.hidden) * 2
    assert whole.weight_bytes() - cut.weight_bytes() == 40 * per_layer
    joint = LlmDrop(target="joint", num=31).dropped(40)
    assert len(joint.attention) + len(joint.mlp) == 31
    assert len(joint.attention) >= 18
    assert 39 not in joint.attention | joint.mlp


def test_parameters_from_text_and_lists() -> None:
    assert LlmDrop.from_params({"attention_layers": "3;5;7"}) == LlmDrop(attention_layers=(3, 5, 7))
    assert LlmDrop.from_params({"mlp_layers": [3, 5]}) == LlmDrop(mlp_layers=(3, 5))
    assert LlmDrop.from_params({"mlp_layers": 4, "attention_layers": None}) == LlmDrop(mlp_layers=(4,))
    learned = LlmDrop(attention_layers=(1, 2), mlp_layers=())
    assert LlmDrop.from_params(learned.params) == learned
    for wrong in ("3;x", [1.5], [True], "1,2"):
        with pytest.raises(ValueError, match="attention_layers must be whole numbers"):
            LlmDrop.from_params({"attention_layers": wrong})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"target": "attn"}, "unknown target 'attn'; did you mean 'attention'"),
        ({"num": 0}, "num must be at least 1"),
        ({"share": 1.0}, "share must lie between 0 and 1"),
        ({"num": 3, "attention_layers": (1,)}, "leave num out"),
        ({"num": 80}, r"num 80 drops 80 of 80 attention layers; use 1 to 79"),
        ({"share": 0.001}, r"share 0.001 drops 0 of 80 attention layers"),
        ({"target": "joint", "num": 160}, "of 160 sublayers"),
        ({"mlp_layers": (3, 80)}, r"mlp_layers names \[80\]; .* has layers 0 to 79"),
        ({"attention_layers": tuple(range(80))}, "at least one of .* must stay"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlmDrop(**params).check(get_spec("llama-2-70b"))
