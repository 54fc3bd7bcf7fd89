"""GGUF metadata to a ModelSpec. Keys are llama.cpp's (gguf-py/gguf/constants.py), without the architecture's
prefix.

A key of the architecture that is neither read here nor known to leave the mathematics alone is an error: a
model that would run differently from what its file says must not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from twofold.errors import nearest
from twofold.models.gguf import GGUFFile
from twofold.models.gguf_metadata import Metadata
from twofold.models.rope_scaling import longrope, yarn
from twofold.models.spec import Experts, ModelSpec, RopeScaling
from twofold.models.stored import Source

# GGUF architecture -> family, and the fields of ModelSpec that the architecture fixes.
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"qk_norm": True}),
    "gemma3": ("gemma3", {"qk_norm": True, "post_norms": True, "activation": "gelu_tanh"}),
    "phi3": ("phi3", {}),
    "qwen2moe": ("qwen2_moe", {}),
    "qwen3moe": ("qwen3_moe", {"qk_norm": True}),
    "gpt2": ("gpt2", {"norm": "layer", "activation": "gelu_tanh", "gated": False, "positions": "learned"}),
}

# llama.cpp: every sixth layer of Gemma 3 is global, its sliding layers rotate with base 10,000.
_GEMMA3_GLOBAL_EVERY = 6
_GEMMA3_LOCAL_THETA = 10000.0
_GEMMA3_27B_LAYERS = 62


def architectures() -> list[str]:
    """GGUF architectures that can be loaded."""
    return sorted(_ARCHITECTURES)


def is_interleaved(file: GGUFFile) -> bool:
    """Whether rows of q and k are stored for interleaved rotation (pairs 2i, 2i+1) rather than half-split."""
    return file.metadata.get("general.architecture") == "llama"


def gguf_spec(file: GGUFFile, sources: Mapping[str, Source], name: str) -> ModelSpec:
    """The architecture that `file` declares, called `name`.

    `sources` are the file's tensors: vocabulary size, biases, tied embeddings and frequency factors are read
    off them. Raises ValueError for an unknown architecture, a missing key, or one that the spec cannot
    express.
    """
    arch = file.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise ValueError(f"{file.path}: metadata key 'general.architecture' is missing")
    if arch not in _ARCHITECTURES:
        raise ValueError(
            f"{file.path}: architecture {arch!r} is not supported; {nearest(arch, _ARCHITECTURES)}"
        )
    if "token_embd.weight" not in sources:
        raise ValueError(f"{file.path}: tensor 'token_embd.weight' is missing")
    family, fields = _ARCHITECTURES[arch]
    meta = Metadata(file, arch)
    hidden, heads = meta.count("embedding_length"), meta.count("attention.head_count")
    layers, context = meta.count("block_count"), meta.count("context_length")
    head_dim = meta.count("attention.key_length", max(hidden // heads, 1))
    meta.refuse("attention.value_length", head_dim)
    meta.refuse("attention.causal", True)
    meta.refuse("use_parallel_residual", False)
    meta.refuse("interleave_moe_layer_step", 1)
    rope_dim = meta.count("rope.dimension_count", head_dim)
    if rope_dim > head_dim or rope_dim % 2:
        raise ValueError(
            f"{file.path}: {rope_dim} of {head_dim} elements of a head rotate, an even part is wanted"
        )
    window = meta.count("attention.sliding_window", 0)
    layer_norm = fields.get("norm") == "layer"
    fields = {
        "norm_eps": meta.number(f"attention.layer_norm_{'epsilon' if layer_norm else 'rms_epsilon'}"),
        "rope_theta": meta.number("rope.freq_base", 10000.0),
        "rope_fraction": rope_dim / head_dim,
        "qkv_bias": any(f"blk.0.attn_{part}.bias" in sources for part in ("q", "qkv")),
        "out_bias": "blk.0.attn_output.bias" in sources,
        "mlp_bias": "blk.0.ffn_up.bias" in sources,
        "tied_embeddings": "output.weight" not in sources,
        "attention_softcap": meta.optional("attn_logit_softcapping"),
        "final_softcap": meta.optional("final_logit_softcapping"),
        "query_scale": meta.optional("attention.scale"),
        # A window as long as the context sees everything, but Gemma's sliding layers also rotate differently.
        "window": window if window and (window < context or family == "gemma3") else None,
        **fields,
    }
    if family == "gemma3":
        fields |= _gemma3(meta, hidden, heads, layers)
    fields["experts"] = experts = _experts(meta, arch)
    if experts is not None and family == "llama":
        family = "mixtral"
    fields["rope_scaling"] = _rope_scaling(meta, sources, rope_dim, fields["rope_theta"], context)
    spec = ModelSpec(
        name=name,
        family=family,
        num_layers=layers,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=meta.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn_hidden=meta.count("feed_forward_length", 0) or (experts.hidden if experts else 0),
        vocab_size=sources["token_embd.weight"].shape[0],
        max_context=context,
        source=str(file.path),
        **fields,
    )
    meta.finish()
    return spec


def _gemma3(meta: Metadata, hidden: int, heads: int, layers: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "embedding_scale": math.sqrt(hidden),
        "global_every": meta.count("attention.sliding_window_pattern", _GEMMA3_GLOBAL_EVERY),
        "rope_local_theta": meta.number("rope.freq_base_swa", _GEMMA3_LOCAL_THETA),
    }
    if layers == _GEMMA3_27B_LAYERS:  # the file does not say that the 27B scales by its hidden width per head
        fields["query_scale"] = (hidden / heads) ** -0.5
    return fields


def _experts(meta: Metadata, arch: str) -> Experts | None:
    num = meta.count("expert_count", 0)
    if not num:
        return None
    meta.refuse("expert_gating_func", 1, 0)  # 1 = softmax, 0 = the architecture's own, which is softmax
    meta.refuse("expert_shared_count", 0)
    shared = meta.count("expert_shared_feed_forward_length", 0)
    return Experts(
        num=num,
        active=meta.count("expert_used_count"),
        hidden=meta.count("expert_feed_forward_length", 0) or meta.count("feed_forward_length"),
        shared_hidden=shared,
        shared_gate=shared > 0,
        first_dense=meta.count("leading_dense_block_count", 0),
        normalize=bool(meta.get("expert_weights_norm", arch != "qwen2moe")),
        scale=meta.optional("expert_weights_scale") or 1.0,
    )


def _rope_scaling(
    meta: Metadata, sources: Mapping[str, Source], dim: int, theta: float, context: int
) -> RopeScaling | None:
    kind = meta.get("rope.scaling.type", "none")
    factor = meta.optional("rope.scaling.factor") or meta.optional("rope.scale_linear") or 1.0
    original = meta.count("rope.scaling.original_context_length", context)
    attention = (
        meta.optional("rope.scaling.attn_factor") or meta.optional("rope.scaling.yarn_attn_factor") or 1.0
    )
    tables = {
        key: sources[f"{tensor}.weight"].stored(key).float().flatten().tolist()
        for key, tensor in (
            ("all", "rope_freqs"),
            ("short", "rope_factors_short"),
            ("long", "rope_factors_long"),
        )
        if f"{tensor}.weight" in sources
    }
    try:
        if kind == "yarn" and not tables:
            meta.refuse("rope.scaling.yarn_ext_factor", 1.0)
            meta.refuse("rope.scaling.yarn_log_multiplier", 0.0)
            return yarn(
                dim=dim,
                theta=theta,
                factor=factor,
                original_context=original,
                beta_fast=meta.number("rope.scaling.yarn_beta_fast", 32.0),
                beta_slow=meta.number("rope.scaling.yarn_beta_slow", 1.0),
                attention_factor=attention * (1 + 0.1 * math.log(factor)),
            )
        if tables and kind in ("none", "longrope", "su"):
            short, long = (tables.get(key, tables.get("all")) for key in ("short", "long"))
            if short is None or long is None:
                raise ValueError(
                    "rope scaling: only one of rope_factors_short and rope_factors_long is there"
                )
            return longrope(
                dim=dim,
                short=short,
                long=long,
                original_context=original,
                max_context=context,
                attention_factor=attention,
            )
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{meta.path}: {error}") from None
    if kind not in ("none", "linear") or tables or attention != 1.0:
        raise ValueError(
            f"{meta.path}: rope scaling {kind!r}{' with factor tensors' if tables else ''}"
            f"{f' and attention factor {attention}' if attention != 1.0 else ''} is not supported"
        )
    return RopeScaling(kind="linear", factor=factor) if factor != 1.0 else None
