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

_HARMLESS = {
    "vocab_size",  # the embedding's own rows count
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "interleave_moe_layer_step",  # refused below unless every layer is meant
}

# llama.cpp: every sixth layer of Gemma 3 is global, its sliding layers rotate with base 10,000.
_GEMMA3_GLOBAL_EVERY = 6
_GEMMA3_LOCAL_THETA = 10000.0
_GEMMA3_27B_LAYERS = 62


class _Metadata:
    """Typed access to one architecture's keys; remembers which were read."""

    def __init__(self, file: GGUFFile, arch: str) -> None:
        self._all, self._prefix, self._path = file.metadata, arch + ".", file.path
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; a list with one value per layer counts as that value where all are the same."""
        self._read.add(key)
        value = self._all.get(self._prefix + key, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ValueError(
                    f"{self._path}: {self._prefix}{key} differs from layer to layer, which is not supported"
                )
            value = value[0]
        return value

    def need(self, key: str) -> Any:
        if (value := self.get(key)) is None:
            raise ValueError(f"{self._path}: metadata key {self._prefix + key!r} is missing")
        return value

    def refuse(self, key: str, harmless: object) -> None:
        """ValueError where `key` is present with another value than `harmless`."""
        if (value := self.get(key, harmless)) != harmless:
            raise ValueError(
                f"{self._path}: {self._prefix}{key} = {value!r} is not supported, only {harmless!r}"
            )

    def finish(self) -> None:
        """ValueError for keys that nobody read."""
        for key, value in self._all.items():
            short = key.removeprefix(self._prefix)
            if short == key or short in self._read or short in _HARMLESS or not value:
                continue
            raise ValueError(
                f"{self._path}: {key} = {value!r} is unknown and may change the model; refusing to ignore it"
            )


def architectures() -> list[str]:
    """GGUF architectures that can be loaded."""
    return sorted(_ARCHITECTURES)


def is_interleaved(file: GGUFFile) -> bool:
    """Whether the rows of q and k lie in the order of interleaved rotation (pairs 2i, 2i+1) rather than half-
    split.
    """
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
    meta = _Metadata(file, arch)
    hidden, heads, layers = (
        meta.need(k) for k in ("embedding_length", "attention.head_count", "block_count")
    )
    head_dim = meta.get("attention.key_length", hidden // heads)
    meta.refuse("attention.value_length", head_dim)
    meta.refuse("attention.causal", True)
    meta.refuse("use_parallel_residual", False)
    meta.refuse("interleave_moe_layer_step", 1)
    context = meta.need("context_length")
    rope_dim = meta.get("rope.dimension_count", head_dim)
    window = meta.get("attention.sliding_window") or None
    fields = {
        "norm_eps": meta.need(
            "attention.layer_norm_epsilon"
            if fields.get("norm") == "layer"
            else "attention.layer_norm_rms_epsilon"
        ),
        "rope_theta": meta.get("rope.freq_base", 10000.0),
        "rope_fraction": rope_dim / head_dim,
        "qkv_bias": any(f"blk.0.attn_{part}.bias" in sources for part in ("q", "qkv")),
        "out_bias": "blk.0.attn_output.bias" in sources,
        "mlp_bias": "blk.0.ffn_up.bias" in sources,
        "tied_embeddings": "output.weight" not in sources,
        "attention_softcap": meta.get("attn_logit_softcapping") or None,
        "final_softcap": meta.get("final_logit_softcapping") or None,
        "query_scale": meta.get("attention.scale") or None,
        # A window as long as the context sees everything, except that Gemma's sliding layers also rotate
        # differently.
        "window": window if window is not None and (window < context or family == "gemma3") else None,
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
        num_kv_heads=meta.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn_hidden=meta.get("feed_forward_length") or (experts.hidden if experts else 0),
        vocab_size=sources["token_embd.weight"].shape[0],
        max_context=context,
        source=str(file.path),
        **fields,
    )
    meta.finish()
    return spec


def _gemma3(meta: _Metadata, hidden: int, heads: int, layers: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "embedding_scale": math.sqrt(hidden),
        "global_every": meta.get("attention.sliding_window_pattern", _GEMMA3_GLOBAL_EVERY),
        "rope_local_theta": meta.get("rope.freq_base_swa", _GEMMA3_LOCAL_THETA),
    }
    if layers == _GEMMA3_27B_LAYERS:  # the file does not say that the 27B scales by its hidden width per head
        fields["query_scale"] = (hidden / heads) ** -0.5
    return fields


def _experts(meta: _Metadata, arch: str) -> Experts | None:
    num = meta.get("expert_count", 0)
    if not num:
        return None
    meta.refuse("expert_gating_func", 1)  # 1 = softmax
    meta.refuse("expert_shared_count", 0)
    shared = meta.get("expert_shared_feed_forward_length", 0)
    return Experts(
        num=num,
        active=meta.need("expert_used_count"),
        hidden=meta.get("expert_feed_forward_length") or meta.need("feed_forward_length"),
        shared_hidden=shared,
        shared_gate=shared > 0,
        first_dense=meta.get("leading_dense_block_count", 0),
        normalize=meta.get("expert_weights_norm", arch != "qwen2moe"),
        scale=meta.get("expert_weights_scale", 1.0) or 1.0,
    )


def _rope_scaling(
    meta: _Metadata, sources: Mapping[str, Source], dim: int, theta: float, context: int
) -> RopeScaling | None:
    kind = meta.get("rope.scaling.type", "none")
    factor = meta.get("rope.scaling.factor") or meta.get("rope.scale_linear") or 1.0
    original = meta.get("rope.scaling.original_context_length", context)
    attention_factor = meta.get("rope.scaling.attn_factor") or meta.get("rope.scaling.yarn_attn_factor")
    tables = {
        key: sources[f"{tensor}.weight"].stored(key).float().flatten().tolist()
        for key, tensor in (
            ("all", "rope_freqs"),
            ("short", "rope_factors_short"),
            ("long", "rope_factors_long"),
        )
        if f"{tensor}.weight" in sources
    }
    if kind == "yarn" and not tables:
        meta.refuse("rope.scaling.yarn_ext_factor", 1.0)
        meta.refuse("rope.scaling.yarn_log_multiplier", 0.0)
        return yarn(
            dim=dim,
            theta=theta,
            factor=factor,
            original_context=original,
            beta_fast=meta.get("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=meta.get("rope.scaling.yarn_beta_slow", 1.0),
            attention_factor=None
            if attention_factor is None
            else attention_factor * (1 + 0.1 * math.log(factor)),
        )
    if tables and kind in ("none", "longrope", "su"):
        short, long = (tables.get(key, tables.get("all")) for key in ("short", "long"))
        if short is None or long is None:
            raise ValueError(
                "rope scaling: the file holds only one of rope_factors_short and rope_factors_long"
            )
        return longrope(
            dim=dim,
            short=short,
            long=long,
            original_context=original,
            max_context=context,
            attention_factor=attention_factor or 1.0,
        )
    if kind in ("none", "linear") and not tables:
        return RopeScaling(kind="linear", factor=factor) if factor != 1.0 else None
    raise ValueError(
        f"rope scaling {kind!r} {'with factor tensors ' if tables else ''}is not supported in GGUF files"
    )
