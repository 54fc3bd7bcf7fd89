"""Putting a model together: a spec, perhaps a checkpoint, and the techniques that change how it is stored or
cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from twofold.models.attention import AttentionBlock, LatentAttentionBlock
from twofold.models.cache import CacheLayer, CacheScheme, DenseCacheScheme, Heads
from twofold.models.context import Maybe
from twofold.models.mlp import ExpertsBlock, MLPBlock
from twofold.models.packed import PackedMatrix
from twofold.models.parallel import Parallel
from twofold.models.rope import RotaryTables, table_elements
from twofold.models.shard import Cut, Part, Shard, whole
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
    will run on native CPU kernels, for which matrices are laid out; `rank`: of its tensor-parallel group;
    `max_drafts`: guesses that a sequence may have at once."""

    precision: Precision = "fp32"
    parallel: Parallel = field(default_factory=Parallel)
    weights: WeightScheme | None = None
    cache: CacheScheme | None = None
    selection: LayerSelection | None = None
    block_size: int = 16
    max_positions: int | None = None
    stored: StoredWeights | None = None
    native: bool = False
    rank: int = 0
    max_drafts: int = 0


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
        self.shard = Shard(options.rank, options.parallel.tp)
        self.hidden = whole(spec.hidden)
        if checkpoint is not None and spec.latent is not None:
            raise ValueError(f"{spec.name}: latent attention can be predicted but not run here")
        cut = options.parallel
        if checkpoint is not None and cut.pp * cut.dp * cut.ep > 1:
            raise ValueError(
                f"running a model here cuts it by tensor parallelism (tp) alone; pp={cut.pp}, dp={cut.dp}, "
                f"ep={cut.ep} can be predicted"
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
        embed = self.weights.table(Part("embed", whole(spec.vocab_size), self.hidden))
        head = self.head(embed)
        if spec.tied_embeddings and isinstance(embed, torch.Tensor) and "weight" in head.tensors:
            cut = self.shard.vocabulary(spec)  # one tensor serves both
            if cut.is_whole:
                embed = head.tensors["weight"]
            else:
                head.tensors["weight"] = embed[cut.start : cut.stop]
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
            [Shard(rank, self.shard.world).vocabulary(spec).size for rank in range(self.shard.world)],
        )

    def _cache_layer(self, heads: Heads, layer: int) -> CacheLayer:
        made = self.cache.cache_layer(heads, self.options.block_size, layer)
        made.max_drafts = self.options.max_drafts
        return made

    def head(self, embed: Maybe | PackedMatrix) -> Matrix:
        """The output projection, one rank's share of the vocabulary; where `embed` is packed and serves as
        both, a part of that."""
        tied, cut = self.spec.tied_embeddings, self.shard.vocabulary(self.spec)
        if tied and isinstance(embed, PackedMatrix):
            return embed if cut.is_whole else embed.part(cut.start, cut.stop)
        return self.weights.matrix("lm_head", [Part("embed" if tied else "lm_head", cut, self.hidden)])

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
        spec = self.spec
        if spec.latent is not None:
            return self.latent_attention(i)
        mine, kv_mine = self.shard.heads(spec), self.shard.kv_heads(spec)
        window = spec.layer_window(i)
        heads = Heads(
            mine.size,
            kv_mine.size,
            spec.head_dim,
            spec.head_dim,
            spec.scale,
            spec.attention_softcap,
            window,
            self.options.precision,
            self.act,
        )
        at = f"layers.{i}."
        rows = {"q": mine.times(spec.head_dim), "k": kv_mine.times(spec.head_dim)}
        rows["v"] = rows["k"]
        block = AttentionBlock(
            spec,
            self.options.parallel,
            self.options.precision,
            window is not None,
            self.weights.matrix(at + "qkv", [Part(at + n, cut, self.hidden) for n, cut in rows.items()]),
            self.weights.matrix(at + "o", [Part(at + "o", self.hidden, rows["q"])]),
            self._cache_layer(heads, i),
        )
        if spec.qkv_bias:
            block.qkv_bias = self.weights.vector([Part(f"{at}{n}_bias", cut) for n, cut in rows.items()])
        if spec.out_bias:
            block.out_bias = self.summed(at + "o_bias")
        if spec.qk_norm:
            block.q_norm = self.weights.vector([Part(at + "q_norm", whole(spec.head_dim))])
            block.k_norm = self.weights.vector([Part(at + "k_norm", whole(spec.head_dim))])
        return block

    def summed(self, name: str) -> Maybe:
        """A bias of what all ranks add up: rank 0 alone has it."""
        return self.weights.vector([Part(name, self.hidden)]) if self.shard.rank == 0 else None

    def latent_attention(self, i: int) -> LatentAttentionBlock:
        """Latent attention of layer `i`; shapes only."""
        spec, m = self.spec, self.spec.latent
        assert m is not None
        count = self.shard.heads(spec).size
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
            self._cache_layer(heads, i),
            self.shape(at + "latent_down", first + width, spec.hidden),
            self.shape(at + "query_up", query_width, m.q_rank) if m.q_rank else None,
            self.shape(at + "o", spec.hidden, count * m.v_dim),
            self.shape(at + "key_up", count * m.kv_rank, m.nope_dim),
            self.shape(at + "value_up", count * m.v_dim, m.kv_rank),
        )

    def shape(self, name: str, rows: int, columns: int) -> Matrix:
        """A matrix that is never loaded."""
        return self.weights.matrix(name, [Part("", whole(rows), whole(columns))])

    def mlp(self, i: int) -> MLP:
        """The MLP of layer `i`, one rank's share of its width."""
        if self.spec.has_experts(i):
            return self.experts(i)
        return self.dense_mlp(f"layers.{i}.", self.spec.ffn_hidden, reduce=True)

    def width(self, name: str, part: str, total: int) -> Cut:
        """One rank's share of an MLP `total` wide, in whole blocks of the columns of its matrix `name`, made
        of the tensor `part`."""
        block = self.weights.block(name, Part(part, self.hidden, whole(total)))
        return self.shard.share(total, block, f"columns of {name}")

    def dense_mlp(self, at: str, total: int, *, reduce: bool) -> MLPBlock:
        """One rank's share of a gated or plain MLP `total` wide whose weights are called `at` + gate, up,
        down."""
        spec, width = self.spec, self.width(at + "down", at + "down", total)
        names = [at + "gate", at + "up"] if spec.gated else [at + "up"]
        block = MLPBlock(
            spec,
            self.options.parallel,
            self.options.precision,
            self.weights.matrix(at + "gate_up", [Part(name, width, self.hidden) for name in names]),
            self.weights.matrix(at + "down", [Part(at + "down", self.hidden, width)]),
            reduce=reduce,
        )
        if spec.mlp_bias:
            block.gate_up_bias = self.weights.vector([Part(name + "_bias", width) for name in names])
            block.down_bias = self.summed(at + "down_bias")
        return block

    def experts(self, i: int) -> ExpertsBlock:
        """The mixture of experts of layer `i`: this rank's experts, or its slice of all of them."""
        spec, e, cut = self.spec, self.spec.experts, self.options.parallel
        assert e is not None
        at = f"layers.{i}."
        local = e.num // cut.ep
        width = whole(e.hidden)
        if cut.ep == 1:
            width = self.width(at + "experts.down", at + "experts.down#0", e.hidden)
        # Experts cost the same, so that shapes need only one of them.
        held = local if self.checkpoint is not None else 1
        matrices = 2 if spec.gated else 1
        gate_up, down = [], []
        for j in range(held):
            names = [f"{at}experts.gate#{j}", f"{at}experts.up#{j}"][-matrices:]
            up = [Part(name, width, self.hidden) for name in names]
            gate_up.append(self.weights.matrix(at + "experts.gate_up", up))
            second = Part(f"{at}experts.down#{j}", self.hidden, width)
            down.append(self.weights.matrix(at + "experts.down", [second]))
        router = self.weights.matrix(at + "router", [Part(at + "router", whole(e.num), self.hidden)])
        block = ExpertsBlock(spec, cut, self.options.precision, router, gate_up, down, local)
        if e.shared_hidden:
            block.shared = self.dense_mlp(at + "shared.", e.shared_hidden, reduce=False)
            if e.shared_gate:
                gate = Part(at + "shared_gate", whole(1), self.hidden)
                block.shared_gate = self.weights.matrix(at + "shared_gate", [gate])
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
