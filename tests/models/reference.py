"""transformers' model with the weights of one of our checkpoints, dequantised: the oracle for real models."""

from __future__ import annotations

import torch
import transformers

from twofold.models.tensors import Checkpoint

_NAMES = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def hf_llama(checkpoint: Checkpoint) -> torch.nn.Module:
    """A transformers Llama in fp32 with exactly the checkpoint's widened weights."""
    spec = checkpoint.spec
    config = transformers.LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn_hidden,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.max_context,
        rms_norm_eps=spec.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        tie_word_embeddings=spec.tied_embeddings,
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    state = {"model.embed_tokens.weight": checkpoint.tensors["embed"].float()}
    state["model.norm.weight"] = checkpoint.tensors["norm"].float()
    head = "embed" if spec.tied_embeddings else "lm_head"
    state["lm_head.weight"] = checkpoint.tensors[head].float()
    for i in range(spec.num_layers):
        for ours, theirs in _NAMES.items():
            state[f"model.layers.{i}.{theirs}.weight"] = checkpoint.tensors[f"layers.{i}.{ours}"].float()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing, missing
    assert not unexpected, unexpected
    return model
