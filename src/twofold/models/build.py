"""Putting a model together: a spec, perhaps a checkpoint, and the techniques that change how it is stored or
cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from twofold.models.attention import AttentionBlock, LatentAttentionBlock
from twofold.models.cache import CacheScheme, DenseCacheScheme, Heads
from twofold.models.mlp import ExpertsBlock, MLPBlock
from twofold.models.packed import PackedMatrix
from twofold.models.parallel import Parallel
from twofold.models.rope import RotaryTables, table_elements
from twofold.models.source import WeightSource
from twofold.models.spec import ModelSpec
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint
from twofold.models.transformer import MLP, Attention, Transformer, TransformerLayer
from twofold.models.weights import ACT_BYTES, Matrix, WeightScheme
from twofold.ops.base import Precision


class LayerSelection(Protocol):
    """Which sublayers exist. Technique seam."""

    def keeps_attention(self, layer: int, num_layers: int) -> bool:
        """Whether attention of `layer` runs."""

    def keeps_mlp(self, layer: int, num_layers: int) -> bool:
        """Whether the MLP of `layer` runs."""


class AllLayers:
    """Every sublayer runs: the default."""

    def keeps_attention(self, layer: int, num_layers: int) -> bool:
        """True."""
        return True

    def keeps_mlp(self, layer: int, num_layers: int) -> bool:
        """True."""
        return True


@dataclass(slots=True)
class ModelOptions:
    """How to put a model together. `max_positions`: length of the position tables, in tokens; `stored`: the
    checkpoint whose quantised matrices are kept as they are stored (None: they are widened); `native`: it
    will run on native CPU kernels, for which matrices are laid out."""

    precision: Precision = "fp32"
    parallel: Parallel = field(default_factory=Parallel)
    weights: WeightScheme | None = None
    cache: CacheScheme | None = None
    selection: LayerSelection | None = None
    block_size: int = 16
    max_positions: int | None = None
    stored: StoredWeights | None = None
    native: bool = False


def build_model(
    spec: ModelSpec,
    options: ModelOptions,
    checkpoint: Checkpoint | None = None,
    where: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Transformer:
    """A Transformer of `spec`. With `checkpoint` its weights are loaded to `where`; without, it holds shapes
    only.

    progress(done, total) is called per layer. ValueError where the spec cannot be cut or run as asked.
    """
    options.parallel.check(spec)
    return _Builder(spec, options, checkpoint, where or torch.device("cpu"), progress).build()


class _Builder:
    def __init__(
        self,
        spec: ModelSpec,
        options: ModelOptions,
        checkpoint: Checkpoint | None,
        where: torch.device,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.spec, self.options, self.checkpoint, self.where = spec, options, checkpoint, where
        self.progress = progress
        self.act = ACT_BYTES[options.precision]
        self.weights = WeightSource(
            spec.name,
            options.precision,
            options.weights,
            checkpoint,
            where,
            options.stored,
            native=options.native,
        )
        self.cache = options.cache or DenseCacheScheme()
        self.selection = options.selection or AllLayers()
        if checkpoint is not None and spec.latent is not None:
            raise ValueError(f"{spec.name}: latent attention can be predicted but not run here")
        if checkpoint is not None and options.parallel.devices > 1:
            raise ValueError(
                "a model that is cut over several devices can be predicted; running it here takes one device"
            )

    # --- the whole ---

    def build(self) -> Transformer:
        """All layers, embeddings and head."""
        spec = self.spec
        layers = []
        for i in range(spec.num_layers):
            layers.append(self.layer(i))
            if self.progress is not None:
                self.progress(i + 1, spec.num_layers)
        tied, share = spec.tied_embeddings, spec.vocab_size // self.options.parallel.tp
        embed = self.weights.table("embed", spec.vocab_size, spec.hidden)
        if tied and isinstance(embed, PackedMatrix) and share == spec.vocab_size:
            head: Matrix = embed  # one matrix serves both
        else:
            head = self.weights.matrix("lm_head", [("embed" if tied else "lm_head", share)], spec.hidden)
        if tied and embed is not None and head.tensors.get("weight") is not None:
            embed = head.tensors["weight"]
        positions = None
        if spec.positions == "learned":
            positions = self.weights.tensor("positions")
            self.weights.small_bytes += (spec.max_context + spec.position_offset) * spec.hidden * self.act
        rotary = None
        if spec.positions == "rope":
            length = self.options.max_positions or spec.max_context
            self.weights.small_bytes += table_elements(spec, length) * self.act
            if self.checkpoint is not None:
                rotary = RotaryTables(spec, length, self.where, self.weights.dtype)
        norm = self.weights.norm("norm", spec.hidden, spec.norm)
        if self.options.stored is not None:
            self.options.stored.save()
        return Transformer(
            spec,
            self.options.parallel,
            self.options.precision,
            _split(layers, self.options.parallel.pp),
            head,
            embed,
            positions,
            rotary,
            norm,
            self.weights.small_bytes,
        )

    def layer(self, i: int) -> TransformerLayer:
        """Layer number `i` without the sublayers that are not selected."""
        spec, n = self.spec, self.spec.num_layers
        attention = self.attention(i) if self.selection.keeps_attention(i, n) else None
        mlp = self.mlp(i) if self.selection.keeps_mlp(i, n) else None
        layer = TransformerLayer(i, attention, mlp)
        at = f"layers.{i}."
        if attention is not None:
            layer.attention_norm = self.weights.norm(at + "attn_norm", spec.hidden, spec.norm)
            if spec.post_norms:
                layer.post_attention_norm = self.weights.norm(at + "post_attn_norm", spec.hidden, spec.norm)
        if mlp is not None:
            layer.mlp_norm = self.weights.norm(at + "mlp_norm", spec.hidden, spec.norm)
            if spec.post_norms:
                layer.post_mlp_norm = self.weights.norm(at + "post_mlp_norm", spec.hidden, spec.norm)
        layer.signature = (
            None
            if attention is None
            else (spec.layer_window(i), type(attention.cache), attention.cache.block_bytes()),
            None if mlp is None else spec.has_experts(i),
            tuple((m.format.name, m.nbytes, m.space) for m in layer.matrices()),
        )
        return layer

    # --- sublayers ---

    def attention(self, i: int) -> Attention:
        """The attention of layer `i`, one rank's share of the heads."""
        spec, tp = self.spec, self.options.parallel.tp
        if spec.latent is not None:
            return self.latent_attention(i)
        kv_heads = max(1, spec.num_kv_heads // tp)
        window = spec.layer_window(i)
        heads = Heads(
            spec.num_heads // tp,
            kv_heads,
            spec.head_dim,
            spec.head_dim,
            spec.scale,
            spec.attention_softcap,
            window,
            self.options.precision,
            self.act,
        )
        at = f"layers.{i}."
        q_rows, kv_rows = heads.heads * spec.head_dim, kv_heads * spec.head_dim
        block = AttentionBlock(
            spec,
            self.options.parallel,
            self.options.precision,
            window is not None,
            self.weights.matrix(
                at + "qkv", [(at + "q", q_rows), (at + "k", kv_rows), (at + "v", kv_rows)], spec.hidden
            ),
            self.weights.matrix(at + "o", [(at + "o", spec.hidden)], q_rows),
            self.cache.cache_layer(heads, self.options.block_size, i),
        )
        if spec.qkv_bias:
            block.qkv_bias = self.weights.vector(
                [at + "q_bias", at + "k_bias", at + "v_bias"], q_rows + 2 * kv_rows
            )
        if spec.out_bias:
            block.out_bias = self.weights.vector([at + "o_bias"], spec.hidden)
        if spec.qk_norm:
            block.q_norm = self.weights.vector([at + "q_norm"], spec.head_dim)
            block.k_norm = self.weights.vector([at + "k_norm"], spec.head_dim)
        return block

    def latent_attention(self, i: int) -> LatentAttentionBlock:
        """Latent attention of layer `i`; shapes only."""
        spec, m = self.spec, self.spec.latent
        assert m is not None
        count = spec.num_heads // self.options.parallel.tp
        width = m.kv_rank + m.rope_dim
        heads = Heads(
            count, 1, width, m.kv_rank, spec.scale, None, None, self.options.precision, self.act, True
        )
        at = f"layers.{i}."
        query_width = count * (m.nope_dim + m.rope_dim)
        first = m.q_rank if m.q_rank else query_width
        return LatentAttentionBlock(
            spec,
            m,
            self.options.parallel,
            self.options.precision,
            self.cache.cache_layer(heads, self.options.block_size, i),
            self.weights.matrix(at + "latent_down", [("", first + width)], spec.hidden),
            self.weights.matrix(at + "query_up", [("", query_width)], m.q_rank) if m.q_rank else None,
            self.weights.matrix(at + "o", [("", spec.hidden)], count * m.v_dim),
            self.weights.matrix(at + "key_up", [("", count * m.kv_rank)], m.nope_dim),
            self.weights.matrix(at + "value_up", [("", count * m.v_dim)], m.kv_rank),
        )

    def mlp(self, i: int) -> MLP:
        """The MLP of layer `i`, one rank's share of its width."""
        if self.spec.has_experts(i):
            return self.experts(i)
        return self.dense_mlp(f"layers.{i}.", self.spec.ffn_hidden // self.options.parallel.tp, reduce=True)

    def dense_mlp(self, at: str, width: int, *, reduce: bool) -> MLPBlock:
        """A gated or plain MLP of `width` whose weights are called `at` + gate, up, down."""
        spec = self.spec
        parts = [(at + "gate", width), (at + "up", width)] if spec.gated else [(at + "up", width)]
        block = MLPBlock(
            spec,
            self.options.parallel,
            self.options.precision,
            self.weights.matrix(at + "gate_up", parts, spec.hidden),
            self.weights.matrix(at + "down", [(at + "down", spec.hidden)], width),
            reduce=reduce,
        )
        if spec.mlp_bias:
            names = [name + "_bias" for name, _ in parts]
            block.gate_up_bias = self.weights.vector(names, width * len(parts))
            block.down_bias = self.weights.vector([at + "down_bias"], spec.hidden)
        return block

    def experts(self, i: int) -> ExpertsBlock:
        """The mixture of experts of layer `i`: this rank's experts, or its slice of all of them."""
        spec, e, cut = self.spec, self.spec.experts, self.options.parallel
        assert e is not None
        at = f"layers.{i}."
        local = e.num // cut.ep
        width = e.hidden if cut.ep > 1 else e.hidden // cut.tp
        # Experts cost the same, so that shapes need only one of them.
        held = local if self.checkpoint is not None else 1
        matrices = 2 if spec.gated else 1
        gate_up, down = [], []
        for j in range(held):
            up = [(f"{at}experts.gate#{j}", width), (f"{at}experts.up#{j}", width)][-matrices:]
            gate_up.append(self.weights.matrix(at + "experts.gate_up", up, spec.hidden))
            down.append(
                self.weights.matrix(at + "experts.down", [(f"{at}experts.down#{j}", spec.hidden)], width)
            )
        router = self.weights.matrix(at + "router", [(at + "router", e.num)], spec.hidden)
        block = ExpertsBlock(spec, cut, self.options.precision, router, gate_up, down, local)
        if e.shared_hidden:
            block.shared = self.dense_mlp(at + "shared.", e.shared_hidden // cut.tp, reduce=False)
            if e.shared_gate:
                block.shared_gate = self.weights.matrix(
                    at + "shared_gate", [(at + "shared_gate", 1)], spec.hidden
                )
        return block


def _split(layers: list[TransformerLayer], stages: int) -> list[list[TransformerLayer]]:
    """`layers` in `stages` runs of nearly equal length, longer ones first."""
    short, extra = divmod(len(layers), stages)
    out, start = [], 0
    for stage in range(stages):
        end = start + short + (1 if stage < extra else 0)
        out.append(layers[start:end])
        start = end
    return out
