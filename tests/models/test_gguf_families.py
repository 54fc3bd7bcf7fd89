"""Every family loads to the same spec and the same canonical tensors from GGUF as from its Hugging Face
directory.

The GGUF files are written here from the Hugging Face ones, with the names that the gguf package maps and with
the changes that llama.cpp's converter makes: rows of q and k interleaved for the llama architecture, one
added to Gemma's norms, GPT-2's matrices transposed, experts joined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.tiny import tiny_hf_dir

from twofold.models.loading import load_checkpoint
from twofold.models.spec import RopeScaling
from twofold.models.tensors import Checkpoint

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "llama3": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}


def interleave(weights: np.ndarray, heads: int) -> np.ndarray:
    """Half-split rows to interleaved ones: within each head, the two halves alternate."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def convert(
    directory: Path,
    path: Path,
    family: str,
    *,
    extra: Callable[[gguf.GGUFWriter], None] | None = None,
    joined_experts: bool = True,
) -> Path:
    """Write the model in `directory` as a float32 GGUF file."""
    arch, config = ARCHITECTURES[family], json.loads((directory / "config.json").read_text())
    names = gguf.get_tensor_name_map(arch, 8)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    write_metadata(writer, family, config)
    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        values = tensor.numpy()
        if arch == gguf.MODEL_ARCH.LLAMA and re.search(r"[qk]_proj", name):
            heads = config["num_attention_heads"] if "q_proj" in name else config["num_key_value_heads"]
            values = interleave(values, heads)
        if family == "gemma3" and name.endswith("norm.weight"):
            values = values + 1
        if family == "gpt2" and re.search(r"(c_attn|c_proj|c_fc)\.weight", name):
            values = values.T
        if match := re.search(r"(.*experts)\.(\d+)\.(.*)", name):
            experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = values
            if not joined_experts:
                part = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}[match[3].split(".")[0]]
                layer = re.search(r"layers\.(\d+)", name)
                assert layer is not None
                writer.add_tensor(f"blk.{layer[1]}.{part}.{match[2]}.weight", np.ascontiguousarray(values))
            continue
        if "shared_expert_gate" in name:
            values = values.reshape(-1)
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert mapped is not None, name
        writer.add_tensor(mapped, np.ascontiguousarray(values, dtype=np.float32))
    for name, parts in experts.items() if joined_experts else ():
        mapped = names.get_name(name, try_suffixes=(".weight",))
        assert mapped is not None, name
        writer.add_tensor(mapped, np.stack([parts[i] for i in range(len(parts))]))
    if extra is not None:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_metadata(writer: gguf.GGUFWriter, family: str, config: dict[str, Any]) -> None:
    def get(*keys: str) -> Any:
        return next(config[k] for k in keys if config.get(k) is not None)

    writer.add_context_length(get("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(get("hidden_size", "n_embd"))
    writer.add_block_count(get("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(get("intermediate_size", "n_inner"))
    writer.add_head_count(get("num_attention_heads", "n_head"))
    if family == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if family == "gemma3":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["full_attention"]["factor"])
        writer.add_key_value(
            "gemma3.attention.scale", config["query_pre_attn_scalar"] ** -0.5, gguf.GGUFValueType.FLOAT32
        )
        writer.add_key_value("gemma3.attention.sliding_window_pattern", 2, gguf.GGUFValueType.UINT32)
    if num := config.get("num_experts", config.get("num_local_experts")):
        writer.add_expert_count(num)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if "moe_intermediate_size" in config:
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        if shared := config.get("shared_expert_intermediate_size"):
            writer.add_expert_shared_feed_forward_length(shared)


def llama3_factors(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, 8, dtype=np.float32))


def assert_same_tensors(found: Checkpoint, expected: Checkpoint) -> None:
    assert set(found.tensors) == set(expected.tensors)
    for tensor in expected:
        assert torch.equal(found.tensors[tensor.name].float(), tensor.float()), tensor.name


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_gguf_equals_hugging_face(family: str, tmp_path: Path) -> None:
    directory = tiny_hf_dir(family, tmp_path)
    expected = load_checkpoint(directory)
    path = convert(
        directory, tmp_path / "m.gguf", family, extra=llama3_factors if family == "llama3" else None
    )
    found = load_checkpoint(path)
    assert_same_tensors(found, expected)
    scaling = expected.spec.rope_scaling
    if family == "llama3":
        factors = tuple(float(x) for x in range(1, 9))
        scaling = RopeScaling("longrope", original_context=512, short=factors, long=factors)
    close = {
        field: pytest.approx(getattr(expected.spec, field), rel=1e-6)
        for field in ("norm_eps", "query_scale", "rope_theta")
        if getattr(expected.spec, field) is not None
    }
    same = replace(expected.spec, name=found.spec.name, source=found.spec.source, rope_scaling=scaling)
    for field in same.__slots__:
        assert getattr(found.spec, field) == close.get(field, getattr(same, field)), field


def test_experts_one_by_one_equal_joined_ones(tmp_path: Path) -> None:
    directory = tiny_hf_dir("mixtral", tmp_path)
    single = convert(directory, tmp_path / "single.gguf", "mixtral", joined_experts=False)
    assert_same_tensors(load_checkpoint(single), load_checkpoint(directory))


def test_longrope_tables_of_phi3(tmp_path: Path) -> None:
    def tables(writer: gguf.GGUFWriter) -> None:
        for which, top in (("short", 2), ("long", 9)):
            writer.add_tensor(f"rope_factors_{which}.weight", np.linspace(1, top, 8, dtype=np.float32))
        writer.add_rope_scaling_orig_ctx_len(128)
        writer.add_rope_scaling_attn_factors(1.25)

    directory = tiny_hf_dir("phi3", tmp_path)
    scaling = load_checkpoint(convert(directory, tmp_path / "m.gguf", "phi3", extra=tables)).spec.rope_scaling
    assert scaling is not None
    assert (scaling.kind, scaling.original_context, scaling.attention_factor) == ("longrope", 128, 1.25)
    assert (scaling.short[-1], scaling.long[-1]) == (2, 9)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.attention.causal", False, "only True"),
        ("llama.logit_scale", 0.5, "refusing to ignore"),
        ("llama.rope.scaling.type", "dynamic", "rope scaling 'dynamic'"),
        ("llama.attention.value_length", 8, "only 16"),
        ("llama.expert_count", 4, r"'llama\.expert_used_count' is missing"),
    ],
)
def test_what_the_spec_cannot_say_is_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    kinds = {bool: gguf.GGUFValueType.BOOL, float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}

    def extra(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value, kinds.get(type(value), gguf.GGUFValueType.UINT32))

    path = convert(tiny_hf_dir("llama", tmp_path), tmp_path / "m.gguf", "llama", extra=extra)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)
