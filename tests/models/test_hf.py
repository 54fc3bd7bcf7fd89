"""Hugging Face directories: configurations of old and new layouts, shards, fused tensors, and everything
refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.models.tiny import FAMILIES, tiny_config, tiny_hf_dir
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from twofold.models.hf_config import hf_spec
from twofold.models.hf_defaults import DEFAULTS
from twofold.models.loading import load_checkpoint, load_spec
from twofold.models.names import tensor_shapes
from twofold.models.rope import inverse_frequencies

CONFIG_CLASSES = {
    "llama": "LlamaConfig", "mistral": "MistralConfig", "mixtral": "MixtralConfig", "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config", "qwen2_moe": "Qwen2MoeConfig", "qwen3_moe": "Qwen3MoeConfig",
    "gemma3": "Gemma3TextConfig",
    "phi3": "Phi3Config", "gpt2": "GPT2Config", "opt": "OPTConfig",
}  # fmt: skip


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_hf_dir("llama", tmp_path)


def edit(directory: Path, changes: dict[str, Any], remove: tuple[str, ...] = ()) -> None:
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in remove}))


def edit_tensors(directory: Path, changes: dict[str, torch.Tensor], remove: tuple[str, ...] = ()) -> None:
    path = directory / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({k: v.contiguous() for k, v in tensors.items() if k not in remove}, path)


@pytest.mark.parametrize("family", DEFAULTS)
def test_defaults_are_those_of_transformers(family: str) -> None:
    sliding = {"use_sliding_window": True} if family.startswith("qwen") else {}
    theirs = getattr(transformers, CONFIG_CLASSES[family])(**sliding)
    for key, value in DEFAULTS[family].items():
        if key != "decoder_sparse_step" or hasattr(theirs, key):
            assert getattr(theirs, key) == value, key


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_loaded_under_its_shape(family: str, tmp_path: Path) -> None:
    directory = tiny_hf_dir(family, tmp_path)
    checkpoint = load_checkpoint(directory)
    assert {t.name: tuple(t.float().shape) for t in checkpoint} == tensor_shapes(checkpoint.spec)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert checkpoint.spec.num_parameters() == sum(p.numel() for p in model.parameters())
    assert load_spec(directory) == checkpoint.spec


def test_half_precision_is_kept_as_stored(llama: Path) -> None:
    whole = load_checkpoint(llama).tensors["layers.0.q"].float()
    edit_tensors(llama, {k: v.bfloat16() for k, v in load_file(llama / "model.safetensors").items()})
    tensor = load_checkpoint(llama).tensors["layers.0.q"]
    assert (tensor.format, tensor.nbytes) == ("bf16", 64 * 64 * 2)
    assert torch.equal(tensor.float(), whole.bfloat16().float())


def test_shards_equal_one_file(llama: Path) -> None:
    one = {t.name: t.float() for t in load_checkpoint(llama)}
    tensors = load_file(llama / "model.safetensors")
    names, where = sorted(tensors), {}
    (llama / "model.safetensors").unlink()
    for number, part in enumerate((names[::2], names[1::2])):
        shard = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, llama / shard)
        where |= dict.fromkeys(part, shard)
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    found = load_checkpoint(llama)
    assert all(torch.equal(found.tensors[n].float(), t) for n, t in one.items())
    (llama / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors named in"):
        load_checkpoint(llama)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_joined_experts_equal_single_ones(family: str, tmp_path: Path) -> None:
    directory = tiny_hf_dir(family, tmp_path)
    single = {t.name: t.float() for t in load_checkpoint(directory)}
    joined, gone = {}, []
    for name in load_file(directory / "model.safetensors"):
        if ".experts." in name:
            gone.append(name)
    for layer in range(3):
        parts = {p: single[f"layers.{layer}.experts.{p}"] for p in ("gate", "up", "down")}
        at = f"model.layers.{layer}.mlp.experts."
        joined[at + "gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], dim=1)
        joined[at + "down_proj"] = parts["down"]
    edit_tensors(directory, joined, tuple(gone))
    found = load_checkpoint(directory)
    assert all(torch.equal(found.tensors[n].float(), t) for n, t in single.items())


def test_gemma_norms_are_final_multipliers(tmp_path: Path) -> None:
    directory = tiny_hf_dir("gemma3", tmp_path)
    stored, found = load_file(directory / "model.safetensors"), load_checkpoint(directory).tensors
    for ours, theirs in (("norm", "norm"), ("layers.1.q_norm", "layers.1.self_attn.q_norm"),
                         ("layers.1.post_attn_norm", "layers.1.post_attention_layernorm"),
                         ("layers.1.mlp_norm", "layers.1.pre_feedforward_layernorm"),
                         ("layers.1.post_mlp_norm", "layers.1.post_feedforward_layernorm")):  # fmt: skip
        assert torch.equal(found[ours].float(), stored[f"model.{theirs}.weight"] + 1)


def test_the_text_half_of_a_multimodal_gemma3(tmp_path: Path) -> None:
    directory = tiny_hf_dir("gemma3", tmp_path)
    plain = load_checkpoint(directory)
    text = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps(
            {
                "model_type": "gemma3",
                "text_config": text,
                "vision_config": {"hidden_size": 8},
                "mm_tokens_per_image": 4,
            }
        )
    )
    tensors = load_file(directory / "model.safetensors")
    renamed = {n.replace("model.", "language_model.model.", 1): t for n, t in tensors.items()}
    edit_tensors(directory, {**renamed, "vision_tower.patch.weight": torch.ones(3)}, tuple(tensors))
    found = load_checkpoint(directory)
    assert found.spec == plain.spec
    assert all(torch.equal(found.tensors[t.name].float(), t.float()) for t in plain)


def test_old_and_new_layouts_of_rope_settings_agree(tmp_path: Path) -> None:
    for family, old in (
        ("llama3", {"rope_theta": 500000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}}),
        ("gemma3", {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 2,
                    "rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("mixtral", {"rope_theta": 1000000.0, "rope_scaling": None}),
    ):  # fmt: skip
        directory = tiny_hf_dir(family, tmp_path)
        new = load_spec(directory)
        edit(directory, old, ("rope_parameters", "layer_types", "_sliding_window_pattern"))
        assert load_spec(directory) == new


LONG = {"rope_type": "longrope", "short_factor": [1.0 + i / 9 for i in range(8)], "rope_theta": 10000.0,
        "long_factor": [2.0 + i for i in range(8)]}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "rope", "changes"),
    [
        ("llama", {"rope_type": "linear", "factor": 3.0}, {}),
        ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, {}),
        ("qwen2", {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16, "attention_factor": 1.5}, {}),
        ("phi3", LONG, {"original_max_position_embeddings": 512}),
        ("phi3", LONG, {"original_max_position_embeddings": 64}),
        ("phi3", {"rope_type": "default", "partial_rotary_factor": 0.5}, {}),
    ],
)
def test_frequencies_equal_transformers(family: str, rope: dict[str, Any], changes: dict[str, Any]) -> None:
    config = tiny_config(family, rope_parameters={"rope_theta": 10000.0, **rope}, **changes)
    spec = hf_spec(config.to_dict(), "m", "config.json")
    scaling = spec.rope_scaling
    found = inverse_frequencies(spec.rope_dim, spec.rope_theta, scaling, spec.max_context)
    if rope["rope_type"] == "default":
        assert spec.rope_dim == 8
        return
    # The long factors hold where the model's context is beyond the original one.
    expected, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"), seq_len=512)
    assert torch.allclose(found, expected, rtol=1e-6)
    assert scaling is not None
    assert scaling.attention_factor == pytest.approx(factor)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"model_type": "lama"}, "model_type 'lama' is not supported; did you mean 'llama'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "rope scaling 'dynamic' is not supported",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "lacks 'factor'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.5}}, r"\['mscale'\]"),
        ("llama", {"logit_multiplier": 2.0}, "logit_multiplier = 2.0 is unknown and may change the model"),
        ("llama", {"quantization_config": {"bits": 4}}, "use GGUF"),
        ("llama", {"hidden_act": "mish"}, "activation 'mish' is not supported"),
        ("llama", {"hidden_size": -1}, "hidden_size must be a positive integer, not -1"),
        ("llama", {"num_hidden_layers": "3"}, "num_hidden_layers must be a positive integer"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "only False"),
        ("opt", {"do_layer_norm_before": False}, "only True"),
        ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim 32"),
        ("gemma3", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "not evenly spaced"),
        ("gemma3", {"use_bidirectional_attention": True}, "only False"),
        ("qwen2_moe", {"decoder_sparse_step": 2}, "only 1"),
        ("qwen3_moe", {"mlp_only_layers": [2]}, "other than the leading ones"),
        ("phi3", {"rope_parameters": {**LONG, "short_factor": [1.0]}}, "one for each of 8 frequencies"),
    ],
)
def test_what_the_spec_cannot_say_is_refused(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hf_spec({**tiny_config(family).to_dict(), **changes}, "m", "config.json")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_nonsense_never_escapes_as_another_error(data: st.DataObject) -> None:
    config = tiny_config(data.draw(st.sampled_from(FAMILIES))).to_dict()
    junk = st.one_of(
        st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.just([]),
        st.just({}), st.just([1, "a"]), st.just({"rope_type": "yarn", "factor": "x"}),
        st.just({"rope_type": "longrope"}),
    )  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3))):
        config[data.draw(st.sampled_from(sorted(config)))] = data.draw(junk)
    try:
        spec = hf_spec(config, "m", "config.json")
    except ValueError as error:
        message = str(error)
    else:
        tensor_shapes(spec)
        return
    assert message.startswith(("config.json: ", "m: "))


def test_windows() -> None:
    def spec(family: str, **changes: Any) -> tuple[int | None, int]:
        found = hf_spec({**tiny_config(family).to_dict(), "layer_types": None, **changes}, "m", "config.json")
        return found.window, found.global_every

    assert spec("mistral") == (16, 0)
    assert spec("mistral", sliding_window=None) == (None, 0)
    assert spec("mistral", sliding_window=512) == (None, 0)
    assert spec("qwen2") == (None, 0)
    assert spec("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0) == (8, 0)
    assert spec("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=3) == (None, 0)
    assert spec("gemma3", sliding_window_pattern=3, num_hidden_layers=7) == (16, 3)
    with pytest.raises(ValueError, match="not evenly spaced"):
        spec("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2)


def test_tensors_that_do_not_fit(llama: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    for changes, remove, message in (
        ({}, (name,), r"layers\.1\.up missing"),
        ({name: torch.zeros(3, 64)}, (), r"layers\.1\.up has shape \[3, 64\], the header implies \[96, 64\]"),
        ({"model.layers.1.mlp.extra.weight": torch.zeros(3)}, (), "refusing to ignore"),
        (
            {"model.layers.1.self_attn.q_proj.bias": torch.zeros(64)},
            (),
            r"layers\.1\.q_bias would be ignored",
        ),
        ({name: torch.zeros(96, 64, dtype=torch.int8)}, (), "unsupported type I8; supported: F32, F16, BF16"),
    ):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(llama, copy)
        edit_tensors(copy, changes, remove)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            load_checkpoint(copy)


def test_damaged_and_missing_files(llama: Path, tmp_path: Path) -> None:
    path = llama / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            load_checkpoint(llama)
    path.unlink()
    assert load_checkpoint(llama, weights=False).spec.hidden == 64
    with pytest.raises(ValueError, match=r"no \*\.safetensors files"):
        load_checkpoint(llama)
    (llama / "pytest_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="must be converted to safetensors"):
        load_checkpoint(llama)
    (llama / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_checkpoint(llama)
    (llama / "config.json").unlink()
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        load_checkpoint(llama)


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match="unknown model 'smolm2-135m', and there is no such file; did you mean"
    ):
        load_checkpoint("smolm2-135m")
    with pytest.raises(ValueError, match="run `twofold pull smollm2-135m`"):
        load_checkpoint("smollm2-135m")
    with pytest.raises(ValueError, match="there is no such file or directory"):
        load_checkpoint(str(tmp_path / "nothing"))
