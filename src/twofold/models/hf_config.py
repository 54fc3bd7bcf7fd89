"""A Hugging Face config.json to a ModelSpec.

Every key is read here, is known to leave the mathematics of inference alone, or is an error (`hf_keys`).
Defaults for keys that a file leaves out are in `hf_defaults`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twofold.errors import nearest
from twofold.models.hf_defaults import DEFAULTS
from twofold.models.hf_keys import Config
from twofold.models.hf_rope import ROPE_KEYS, rope_fields
from twofold.models.spec import Activation, Experts, ModelSpec

_MAX_LAYERS = 10_000
_MODEL_TYPES = {family: family for family in DEFAULTS} | {"gemma3_text": "gemma3"}

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file at `path`; ValueError where it is missing, damaged or not an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, a JSON object is wanted")
    return found


def family_of(values: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """The family of a config.json and the part of it that describes the text model.

    Raises ValueError for model types that are not supported.
    """
    model_type = values.get("model_type")
    if model_type == "gemma3" and isinstance(text := values.get("text_config"), Mapping):
        # What multimodal Gemma 3 states for the whole model holds for its text part too.
        shared = {
            k: values[k] for k in ("tie_word_embeddings", "eos_token_id", "bos_token_id") if k in values
        }
        return "gemma3", {**shared, **text}
    if not isinstance(model_type, str) or model_type not in _MODEL_TYPES:
        raise ValueError(
            f"{where}: model_type {model_type!r} is not supported; {nearest(str(model_type), _MODEL_TYPES)}"
        )
    return _MODEL_TYPES[model_type], values


def hf_spec(values: Mapping[str, Any], name: str, where: str) -> ModelSpec:
    """The architecture that a parsed config.json describes, called `name`; `where` is named in errors and as
    source.

    Raises ValueError for what is not supported, and for every key that is neither understood nor known to be
    harmless.
    """
    family, values = family_of(values, where)
    config = Config(values, DEFAULTS[family], where)
    if config.get("quantization_config"):
        raise ValueError(
            f"{where}: quantised Hugging Face checkpoints are not supported; use GGUF or the original"
        )
    fields = _positional(config, family) if family in ("gpt2", "opt") else _rotary(config, family)
    name_of_act = next(
        (v for v in map(config.get, ("hidden_act", "hidden_activation", "activation_function")) if v), None
    )
    if not isinstance(name_of_act, str) or name_of_act not in _ACTIVATIONS:
        raise ValueError(
            f"{where}: activation {name_of_act!r} is not supported; allowed: {', '.join(_ACTIVATIONS)}"
        )
    spec = ModelSpec(
        name=name,
        family=family,
        vocab_size=config.number("vocab_size"),
        activation=_ACTIVATIONS[name_of_act],
        tied_embeddings=config.flag("tie_word_embeddings"),
        source=where,
        **fields,
    )
    config.finish()
    return spec


def _positional(config: Config, family: str) -> dict[str, Any]:
    """GPT-2 and OPT: learned positions, layer norms, biases everywhere, a plain MLP."""
    hidden, heads = config.number("n_embd", "hidden_size"), config.number("n_head", "num_attention_heads")
    if (projected := config.get("word_embed_proj_dim")) not in (None, hidden):
        raise ValueError(
            f"{config.where}: word_embed_proj_dim {projected} other than hidden_size is not supported"
        )
    inner = config.maybe_number("n_inner") or config.maybe_number("ffn_dim") or 4 * hidden
    return {
        "num_layers": config.number("n_layer", "num_hidden_layers"),
        "hidden": hidden,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": hidden // heads,
        "ffn_hidden": inner,
        "max_context": config.number("n_positions", "max_position_embeddings"),
        "norm": "layer",
        "norm_eps": config.positive("layer_norm_epsilon", 1e-5),  # OPT has torch's default
        "gated": False,
        "positions": "learned",
        "position_offset": 2 if family == "opt" else 0,  # OPT's table begins with two unused rows
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
    }


def _rotary(config: Config, family: str) -> dict[str, Any]:
    """The families with rotary positions and root-mean-square norms."""
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    head_dim = config.maybe_number("head_dim") or hidden // heads
    layers, context = config.number("num_hidden_layers"), config.number("max_position_embeddings")
    if layers > _MAX_LAYERS:
        raise ValueError(f"{config.where}: {layers:,} layers are more than any model has")
    settings = {key: config.get(key) for key in ROPE_KEYS if config.get(key) is not None}
    bias = config.flag("attention_bias")
    fields: dict[str, Any] = {
        "num_layers": layers,
        "hidden": hidden,
        "num_heads": heads,
        "num_kv_heads": config.maybe_number("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "ffn_hidden": config.number("intermediate_size"),
        "max_context": context,
        "norm_eps": config.positive("rms_norm_eps"),
        "qkv_bias": {"qwen2": True, "qwen2_moe": config.flag("qkv_bias")}.get(family, bias),
        "out_bias": bias,
        "mlp_bias": config.flag("mlp_bias"),
        "qk_norm": family in ("qwen3", "qwen3_moe", "gemma3"),
        "experts": _experts(config, family, layers),
        **rope_fields(settings, family, head_dim, config.where),
        **_windows(config, family, layers, context),
    }
    if family == "gemma3":
        fields |= {
            "post_norms": True,
            "embedding_scale": math.sqrt(hidden),
            "query_scale": config.positive("query_pre_attn_scalar") ** -0.5,
            "attention_softcap": config.cap("attn_logit_softcapping"),
            "final_softcap": config.cap("final_logit_softcapping"),
        }
    return fields


def _windows(config: Config, family: str, layers: int, context: int) -> dict[str, Any]:
    """`window` and `global_every`; ValueError for a pattern of layers that those two cannot say."""
    window = config.maybe_number("sliding_window")
    first = config.maybe_number("max_window_layers") or 0
    use = config.flag("use_sliding_window", not family.startswith("qwen"))
    types, pattern = config.items("layer_types", str), config.maybe_number("sliding_window_pattern") or 6
    if not window or not use:
        return {"window": None}
    if (
        window >= context and family != "gemma3"
    ):  # sees everything; Gemma's sliding layers also rotate differently
        return {"window": None}
    if types is None and family == "gemma3":
        types = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)]
    elif types is None and family == "qwen2_moe":
        types = ["sliding_attention" if i % 2 == 0 and i < first else "full_attention" for i in range(layers)]
    elif types is None:
        # The dense Qwens keep their first layers global.
        full = first if family in ("qwen2", "qwen3") else 0
        types = ["full_attention" if i < full else "sliding_attention" for i in range(layers)]
    slides = [kind == "sliding_attention" for kind in types]
    if len(types) != layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise ValueError(f"{config.where}: layer_types {types} are not understood for {layers} layers")
    if not any(slides):
        return {"window": None}
    every = next((i + 1 for i, slide in enumerate(slides) if not slide), 0)
    if slides != [every == 0 or (i + 1) % every != 0 for i in range(layers)]:
        raise ValueError(
            f"{config.where}: global layers {[i for i, s in enumerate(slides) if not s]} not evenly spaced"
        )
    return {"window": window, "global_every": every}


def _experts(config: Config, family: str, layers: int) -> Experts | None:
    if family not in ("mixtral", "qwen2_moe", "qwen3_moe"):
        return None
    dense = sorted(config.items("mlp_only_layers", int) or [])
    if dense != list(range(len(dense))) or len(dense) >= layers:
        raise ValueError(
            f"{config.where}: dense layers {dense} other than the leading ones are not supported"
        )
    mixtral, shared = family == "mixtral", config.maybe_number("shared_expert_intermediate_size") or 0
    keys = ("num_local_experts", "num_experts")
    given = [key for key in keys if key in config.values]
    for key in keys:
        config.get(key)
    return Experts(
        num=config.number(*(given or keys)),
        active=config.number("num_experts_per_tok"),
        hidden=config.number("intermediate_size" if mixtral else "moe_intermediate_size"),
        shared_hidden=shared,
        shared_gate=shared > 0,
        first_dense=len(dense),
        normalize=mixtral or config.flag("norm_topk_prob"),
    )


def eos_ids(directory: Path) -> frozenset[int]:
    """Token ids that end a text: those of generation_config.json, else those of config.json."""
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            values = read_json(directory / name)
            if name == "config.json":
                values = dict(family_of(values, str(directory / name))[1])
            ids = values.get("eos_token_id")
            if ids is not None:
                return frozenset(ids if isinstance(ids, list) else [ids])
    return frozenset()
