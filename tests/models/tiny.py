"""Small random models, written as the real ones are: the oracle that logits and loaders are checked against.

`tiny_hf_dir` writes a Hugging Face directory with transformers (fp32, fixed seed, a few thousand weights) in
which the family's particular features are switched on. `tiny_gguf` writes the smallest Llama-architecture
GGUF file of one type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from tokenizers import pre_tokenizers

VOCAB = 160
WINDOW = 16

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rms_norm_eps": 1e-5}),
    "llama3": (
        "LlamaConfig",
        {"rms_norm_eps": 1e-5, "tie_word_embeddings": True, "rope_parameters": _LLAMA3_ROPE},
    ),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 8}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 4.0},
            },
        },
    ),
    "phi3": ("Phi3Config", {"sliding_window": WINDOW, "original_max_position_embeddings": 512}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 80,
            "norm_topk_prob": False,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "norm_topk_prob": True,
        },
    ),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCAB,
            "n_positions": 512,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_inner": 96,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
}

FAMILIES = tuple(_FAMILIES)
"""Every family that `tiny_hf_dir` knows."""


def tiny_config(family: str, **changes: Any) -> Any:
    """The transformers configuration of the small model of `family`, with `changes` applied."""
    class_name, own = _FAMILIES[family]
    base = {} if family in ("gpt2", "opt") else _COMMON
    return getattr(transformers, class_name)(**{**base, **own, **changes})


def tiny_hf_dir(family: str, tmp_path: Path, **changes: Any) -> Path:
    """Write the small model of `family` as config.json + model.safetensors under `tmp_path`; returns that
    directory.

    Every weight is random, norms and biases included (freshly made ones are all one or zero, which would hide
    a mix-up).
    """
    config = tiny_config(family, **changes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or ".ln_" in name:
                parameter.add_(0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(noise * (1.0 if "embed" in name else 2.0) / parameter.shape[-1] ** 0.5)
    directory = tmp_path / f"tiny-{family}"
    model.save_pretrained(directory)
    return directory


def reference_logits(directory: Path, ids: list[int]) -> torch.Tensor:
    """Logits that transformers computes in fp32 for `ids`: [tokens, vocab]."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.tensor([ids])).logits[0]
    return logits


# fp16 fields of each block: (byte, value), chosen so that the widened weights stay around 0.1.
_SCALES: dict[str, tuple[tuple[int, float], ...]] = {
    "q8_0": ((0, 6e-4),),
    "q4_0": ((0, 1e-2),),
    "q4_1": ((0, 1e-2), (2, -7.5e-2)),
    "q5_0": ((0, 5e-3),),
    "q5_1": ((0, 5e-3), (2, -8e-2)),
    "q4_k": ((0, 3e-4), (2, 2e-3)),
    "q5_k": ((0, 2e-4), (2, 2e-3)),
    "q6_k": ((208, 5e-5),),
}


def random_packed(name: str, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    """A random [rows, cols] matrix in the GGUF type `name`, packed: [rows, row_bytes] uint8."""
    kind = gguf.GGMLQuantizationType[name.upper()]
    if name not in _SCALES:
        packed: np.ndarray = gguf.quantize(rng.normal(0, 0.1, (rows, cols)).astype(np.float32), kind)
        return packed.view(np.uint8).reshape(rows, -1)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * cols // block, size), dtype=np.uint8)
    for at, value in _SCALES[name]:
        blocks[:, at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


GGUF_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def byte_level_tokens() -> tuple[list[str], list[str]]:
    """The smallest byte-level vocabulary, (tokens, merges): all bytes, a few merges, three control tokens
    last.
    """
    merges = ["t h", "th e", "Ġ the", "i n", "1 2"]
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [m.replace(" ", "") for m in merges]
    return [*tokens, "<|endoftext|>", "<|im_start|>", "<|im_end|>"], merges


def tiny_gguf(
    path: Path,
    tensor_type: str = "q8_0",
    *,
    tokenizer: bool = True,
    pre: str = "smollm",
    context: int = 256,
    template: str = GGUF_TEMPLATE,
) -> Path:
    """Write a small random Llama-architecture model whose matrices have `tensor_type`; returns `path`.

    2 layers, hidden 256, 4 heads, 2 KV heads, vocabulary of `byte_level_tokens`.
    """
    rng = np.random.default_rng(0)
    tokens, merges = byte_level_tokens()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(256)
    writer.add_block_count(2)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([1] * (len(tokens) - 3) + [3] * 3)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(len(tokens) - 2)
        writer.add_eos_token_id(len(tokens) - 1)
        writer.add_add_bos_token(False)
        writer.add_chat_template(template)
    matrices = {"token_embd": (len(tokens), 256)}
    norms = ["output_norm"]
    for layer in range(2):
        shapes = {"attn_q": (256, 256), "attn_k": (128, 256), "attn_v": (128, 256), "attn_output": (256, 256)}
        shapes |= {"ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512)}
        matrices |= {f"blk.{layer}.{name}": shape for name, shape in shapes.items()}
        norms += [f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"]
    for name in norms:
        writer.add_tensor(f"{name}.weight", (1 + 0.1 * rng.normal(size=256)).astype(np.float32))
    kind = gguf.GGMLQuantizationType[tensor_type.upper()]
    for name, (rows, cols) in matrices.items():
        writer.add_tensor(f"{name}.weight", random_packed(tensor_type, rows, cols, rng), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
