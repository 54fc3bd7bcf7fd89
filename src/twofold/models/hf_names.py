"""Tensors of a Hugging Face checkpoint under canonical names, for all families that are supported.

Covers both layouts of experts (one matrix per expert, or all joined), matrices fused over q, k, v or gate and
up, GPT-2's transposed matrices, and Gemma's norms, which store their distance from one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from twofold.models.spec import ModelSpec
from twofold.models.stored import Source, plus_one, split_expert_rows, split_rows, stack, transpose

_PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "model.decoder.",
    "model.",
    "decoder.",
    "transformer.",
)

# Parts that are no weights of the text model: buffers of old files, and the image half of multimodal Gemma 3.
_IGNORED = re.compile(
    r".*\.rotary_emb\.inv_freq|h\.\d+\.attn\.(bias|masked_bias)|(model\.)?(vision_tower|multi_modal_projector)\..*"
)

_TOP = {
    "embed_tokens": "embed",
    "wte": "embed",
    "embed_positions": "positions",
    "wpe": "positions",
    "norm": "norm",
    "ln_f": "norm",
    "final_layer_norm": "norm",
    "lm_head": "lm_head",
    "language_model.lm_head": "lm_head",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn_layer_norm": "attn_norm",
    "ln_1": "attn_norm",
    "post_attention_layernorm": "mlp_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "final_layer_norm": "mlp_norm",
    "ln_2": "mlp_norm",
    "post_feedforward_layernorm": "post_mlp_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.qkv_proj": "qkv",
    "attn.c_attn": "qkv",
    "self_attn.o_proj": "o",
    "self_attn.out_proj": "o",
    "attn.c_proj": "o",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "fc1": "up",
    "mlp.c_fc": "up",
    "mlp.gate_up_proj": "gate_up",
    "mlp.down_proj": "down",
    "fc2": "down",
    "mlp.c_proj": "down",
    "mlp.gate": "router",
    "block_sparse_moe.gate": "router",
    "mlp.experts.gate_up_proj": "experts.gate_up",
    "mlp.experts.down_proj": "experts.down",
    "mlp.shared_expert.gate_proj": "shared.gate",
    "mlp.shared_expert.up_proj": "shared.up",
    "mlp.shared_expert.down_proj": "shared.down",
    "mlp.shared_expert_gate": "shared_gate",
}
_LAYER_NAME = re.compile(r"(?:layers|h)\.(\d+)\.(.+?)(?:\.(weight|bias))?")
_EXPERT_NAME = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)")
_EXPERT_PARTS = {
    "w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "down_proj": "down", "up_proj": "up",
}  # fmt: skip


def canonical_sources(spec: ModelSpec, sources: Mapping[str, Source], where: str) -> dict[str, Source]:
    """The checkpoint's tensors under the names of `models.tensors`; ValueError for one that has no place
    there.
    """
    found: dict[str, Source] = {}
    experts: dict[str, dict[int, Source]] = defaultdict(dict)
    for full_name, source in sources.items():
        name = next((full_name.removeprefix(p) for p in _PREFIXES if full_name.startswith(p)), full_name)
        if _IGNORED.fullmatch(full_name) or _IGNORED.fullmatch(name):
            continue
        stem, _, kind = name.rpartition(".")
        if stem in _TOP and kind in ("weight", "bias"):
            top = _TOP[stem]
            if top == "lm_head" and spec.tied_embeddings:
                continue  # a second copy of the embedding
            found[top + _suffix(kind)] = _norm(spec, top, source)
            continue
        if match := _LAYER_NAME.fullmatch(name):
            layer, part = f"layers.{match[1]}.", match[2]
            if (expert := _EXPERT_NAME.fullmatch(part)) and expert[2] in _EXPERT_PARTS:
                experts[f"{layer}experts.{_EXPERT_PARTS[expert[2]]}"][int(expert[1])] = source
                continue
            if part in _LAYER:
                place = _LAYER[part]
                if spec.post_norms and part == "post_attention_layernorm":  # Gemma's name for another norm
                    place = "post_attn_norm"
                found |= _place(spec, layer, place, match[3] or "weight", source)
                continue
        raise ValueError(
            f"{where}: tensor {full_name!r} has no place in a {spec.family} model; refusing to ignore it"
        )
    for name, by_number in experts.items():
        if sorted(by_number) != list(range(len(by_number))):
            raise ValueError(
                f"{where}: experts of {name} are not numbered from 0 without gaps: {sorted(by_number)}"
            )
        found[name] = stack([by_number[i] for i in range(len(by_number))])
    return found


def _suffix(kind: str) -> str:
    return "_bias" if kind == "bias" else ""


def _norm(spec: ModelSpec, part: str, source: Source) -> Source:
    return plus_one(source) if spec.family == "gemma3" and part.endswith("norm") else source


def _place(spec: ModelSpec, layer: str, part: str, kind: str, source: Source) -> dict[str, Source]:
    """One tensor of a layer under its name, or the several that are fused in it."""
    if spec.family == "gpt2" and len(source.shape) == 2:
        source = transpose(source)
    source = _norm(spec, part, source)
    suffix = _suffix(kind)
    if part == "qkv" and source.shape[0] == spec.q_dim + 2 * spec.kv_dim:
        cut = split_rows(source, [spec.q_dim, spec.kv_dim, spec.kv_dim])
        return {f"{layer}{name}{suffix}": p for name, p in zip("qkv", cut, strict=True)}
    if part == "gate_up" and source.shape[0] == 2 * spec.ffn_hidden:
        cut = split_rows(source, [spec.ffn_hidden] * 2)
        return {f"{layer}{name}{suffix}": p for name, p in zip(("gate", "up"), cut, strict=True)}
    if part == "experts.gate_up" and len(source.shape) == 3 and source.shape[1] % 2 == 0:
        cut = split_expert_rows(source, [source.shape[1] // 2] * 2)
        return {f"{layer}experts.{name}": p for name, p in zip(("gate", "up"), cut, strict=True)}
    return {f"{layer}{part}{suffix}": source}
