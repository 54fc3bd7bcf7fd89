"""Tensors of a GGUF file under canonical names: fused ones split, experts joined, rotated rows put in half-
split order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import torch

from twofold.models.spec import ModelSpec
from twofold.models.stored import Source, reorder_rows, split_rows, stack

_TOP = {
    "token_embd.weight": "embed",
    "position_embd.weight": "positions",
    "output_norm.weight": "norm",
    "output_norm.bias": "norm_bias",
    "output.weight": "lm_head",
}
_LAYER = {
    "attn_norm": "attn_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_qkv": "qkv",
    "attn_output": "o",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "post_attention_norm": "post_attn_norm",
    "ffn_norm": "mlp_norm",
    "post_ffw_norm": "post_mlp_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
    "ffn_gate_inp": "router",
    "ffn_gate_exps": "experts.gate",
    "ffn_up_exps": "experts.up",
    "ffn_down_exps": "experts.down",
    "ffn_gate_shexp": "shared.gate",
    "ffn_up_shexp": "shared.up",
    "ffn_down_shexp": "shared.down",
    "ffn_gate_inp_shexp": "shared_gate",
}
# Read into the spec as frequency divisors.
_ROPE_TABLES = {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"}

_BLOCK = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(?:(\d+)\.)?(weight|bias)")


def half_split_order(num_heads: int, head_dim: int, rope_dim: int) -> torch.Tensor:
    """For each row of the half-split order, the row of the interleaved order that it is: [num_heads *
    head_dim].

    Interleaved rotation turns the rows (2i, 2i+1) of a head together, half-split rotation the rows (i, i +
    rope_dim/2).
    """
    head = torch.arange(head_dim)
    head[:rope_dim] = head[:rope_dim].view(-1, 2).T.reshape(-1)
    return (torch.arange(num_heads).unsqueeze(1) * head_dim + head).flatten()


def canonical_sources(
    spec: ModelSpec, sources: Mapping[str, Source], *, interleaved: bool, where: str
) -> dict[str, Source]:
    """The file's tensors under the names of `models.tensors`; ValueError for one that has no place there."""
    found: dict[str, Source] = {}
    experts: dict[str, dict[int, Source]] = defaultdict(dict)
    for name, source in sources.items():
        if name in _ROPE_TABLES:
            continue
        if name in _TOP:
            found[_TOP[name]] = source
            continue
        match = _BLOCK.fullmatch(name)
        if match is None or match[2] not in _LAYER:
            raise ValueError(
                f"{where}: tensor {name!r} has no place in a {spec.family} model; refusing to ignore it"
            )
        layer, part = f"layers.{match[1]}.", _LAYER[match[2]]
        if match[3] is not None:  # one matrix per expert: files older than the joined layout
            experts[f"{layer}experts.{part}"][int(match[3])] = source
        else:
            found |= _place(spec, layer, part, "_bias" if match[4] == "bias" else "", source)
    for name, by_number in experts.items():
        if sorted(by_number) != list(range(len(by_number))):
            raise ValueError(
                f"{where}: experts of {name} are not numbered from 0 without gaps: {sorted(by_number)}"
            )
        found[name] = stack([by_number[i] for i in range(len(by_number))])
    if interleaved:
        for name, source in found.items():
            part = name.rpartition(".")[2].removesuffix("_bias")
            heads = {"q": spec.num_heads, "k": spec.num_kv_heads}.get(part)
            if heads is not None and source.shape[0] == heads * spec.head_dim:
                found[name] = reorder_rows(source, half_split_order(heads, spec.head_dim, spec.rope_dim))
    return found


def _place(spec: ModelSpec, layer: str, part: str, suffix: str, source: Source) -> dict[str, Source]:
    """One tensor of a layer under its name, or the several that are fused in it."""
    if part == "qkv" and source.shape[0] == spec.q_dim + 2 * spec.kv_dim:
        parts = split_rows(source, [spec.q_dim, spec.kv_dim, spec.kv_dim])
        return {f"{layer}{name}{suffix}": p for name, p in zip("qkv", parts, strict=True)}
    if part == "up" and spec.gated and source.shape[0] == 2 * spec.ffn_hidden:
        gate, up = split_rows(source, [spec.ffn_hidden, spec.ffn_hidden])
        return {f"{layer}gate{suffix}": gate, f"{layer}up{suffix}": up}
    if part == "shared_gate" and len(source.shape) == 1:
        source = replace(source, shape=(1, *source.shape))
    return {f"{layer}{part}{suffix}": source}
