"""ModelSpec: the architecture of a decoder-only transformer, without its weights.

Everything that shapes the forward pass is here, so that a spec alone is enough to predict a model and a
checkpoint is only a spec with tensors beside it. Names follow Hugging Face's configs where those agree among
themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    kind "linear" divides all frequencies by `factor`; "llama3" divides the low ones and blends in between;
    "longrope" divides each by its own entry of `short` or `long` (chosen by the model's own context limit)
    and scales by `attention_factor`.
    """

    kind: Literal["linear", "llama3", "longrope", "yarn"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture-of-experts MLP.

    num: routed experts; active: experts per token; hidden: width of one; shared_hidden: width of the
    always-active shared expert (0 = none) and whether it has a sigmoid gate of its own; first_dense: leading
    layers with a dense MLP; every: of the others, every n-th is a mixture and those before it are dense;
    normalize: the active experts' weights are made to sum to one; scoring: how router logits become weights;
    scale: factor on the routed output; groups/active_groups: group-limited routing (DeepSeek).
    """

    num: int
    active: int
    hidden: int
    shared_hidden: int = 0
    shared_gate: bool = False
    first_dense: int = 0
    every: int = 1
    normalize: bool = True
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    scale: float = 1.0
    groups: int = 1
    active_groups: int = 1


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2/V3): keys and values are cached as one low-rank latent per
    token.

    Widths in elements: q_rank (0 = queries are not compressed), kv_rank (the cached latent), rope_dim (the
    shared rotary key, cached beside it), nope_dim and v_dim per head.
    """

    q_rank: int
    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An architecture. Widths are in elements, `max_context` in tokens.

    window: attention span of sliding-window layers in tokens (None = all layers see everything);
    global_every: every n-th layer is global (0 = all layers slide, where `window` is set). rope_local_theta:
    base of the sliding layers where it differs. rope_fraction: share of head_dim that rotates. post_norms:
    Gemma's norms after attention and MLP.
    query_scale: factor on query-key products (None = head_dim ** -0.5).
    """

    name: str
    family: str
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_hidden: int
    vocab_size: int
    max_context: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    activation: Activation = "silu"
    gated: bool = True
    positions: Literal["rope", "learned"] = "rope"
    position_offset: int = 0
    rope_theta: float = 10000.0
    rope_local_theta: float | None = None
    rope_fraction: float = 1.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    tied_embeddings: bool = False
    embedding_scale: float = 1.0
    attention_softcap: float | None = None
    final_softcap: float | None = None
    query_scale: float | None = None
    window: int | None = None
    global_every: int = 0
    experts: Experts | None = None
    latent: LatentAttention | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for field in (
            "num_layers",
            "hidden",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "vocab_size",
            "max_context",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{self.name}: {field} must be a positive integer, not {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.name}: num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.latent is not None and self.num_heads != self.num_kv_heads:
            raise ValueError(f"{self.name}: latent attention has as many KV heads as heads")

    # --- layers ---

    def is_global(self, layer: int) -> bool:
        """Whether `layer` attends to the whole context rather than to a sliding window."""
        if self.window is None:
            return True
        return self.global_every > 0 and (layer + 1) % self.global_every == 0

    def layer_window(self, layer: int) -> int | None:
        """The sliding window of `layer` in tokens, or None where it sees everything."""
        return None if self.is_global(layer) else self.window

    def has_experts(self, layer: int) -> bool:
        """Whether `layer`'s MLP is a mixture of experts."""
        e = self.experts
        return e is not None and layer >= e.first_dense and (layer - e.first_dense + 1) % e.every == 0

    # --- widths ---

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key heads together (and of all value heads)."""
        return self.num_kv_heads * self.head_dim

    @property
    def rope_dim(self) -> int:
        """Elements of a head that rotate."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def scale(self) -> float:
        """Factor on query-key products."""
        return self.query_scale if self.query_scale is not None else 1.0 / math.sqrt(self.head_dim)

    # --- sizes ---

    @property
    def kv_elements_per_token(self) -> int:
        """Elements that one token adds to the cache of one layer."""
        if self.latent is not None:
            return self.latent.kv_rank + self.latent.rope_dim
        return 2 * self.kv_dim

    def attention_parameters(self) -> int:
        """Weights of one attention sublayer, biases and QK norms included, its input norm not."""
        if (m := self.latent) is not None:
            qk = m.nope_dim + m.rope_dim
            if m.q_rank:
                q = self.hidden * m.q_rank + m.q_rank + m.q_rank * self.num_heads * qk
            else:
                q = self.hidden * self.num_heads * qk
            kv = self.hidden * (m.kv_rank + m.rope_dim) + m.kv_rank
            up = m.kv_rank * self.num_heads * (m.nope_dim + m.v_dim)
            return q + kv + up + self.num_heads * m.v_dim * self.hidden
        n = self.hidden * (self.q_dim + 2 * self.kv_dim) + self.q_dim * self.hidden
        n += (self.q_dim + 2 * self.kv_dim) * self.qkv_bias + self.hidden * self.out_bias
        return n + 2 * self.head_dim * self.qk_norm

    def mlp_parameters(self, layer: int, *, active_only: bool = False) -> int:
        """Weights of the MLP of `layer`; with `active_only` just those that one token multiplies."""
        matrices = 3 if self.gated else 2
        if not self.has_experts(layer):
            bias = (self.ffn_hidden * (matrices - 1) + self.hidden) * self.mlp_bias
            return matrices * self.hidden * self.ffn_hidden + bias
        e = self.experts
        assert e is not None
        routed = (e.active if active_only else e.num) * matrices * self.hidden * e.hidden
        router = e.num * self.hidden + (e.num if e.scoring == "sigmoid" else 0)
        shared = matrices * self.hidden * e.shared_hidden + (self.hidden if e.shared_gate else 0)
        return routed + router + shared

    def _norm_parameters(self) -> int:
        per_norm = self.hidden * (2 if self.norm == "layer" else 1)
        return per_norm * (self.num_layers * (4 if self.post_norms else 2) + 1)

    def num_parameters(self, *, active_only: bool = False) -> int:
        """All weights of the model; with `active_only` those that take part in one token (embedding rows
        included)."""
        n = self.vocab_size * self.hidden * (1 if self.tied_embeddings else 2) + self._norm_parameters()
        if self.positions == "learned":
            n += (self.max_context + self.position_offset) * self.hidden
        for layer in range(self.num_layers):
            n += self.attention_parameters() + self.mlp_parameters(layer, active_only=active_only)
        return n
