"""The sublayers of a model out of its weights, or out of nothing but shapes."""

from __future__ import annotations

import torch

from twofold.models.attention import AttentionBlock, LatentAttentionBlock
from twofold.models.cache import CacheLayer, Heads
from twofold.models.context import Maybe
from twofold.models.dense_cache import DenseCacheScheme
from twofold.models.mlp import ExpertsBlock, MLPBlock
from twofold.models.options import ModelOptions
from twofold.models.shard import Cut, Part, Shard, whole
from twofold.models.source import WeightSource
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.models.transformer import MLP, Attention
from twofold.models.weights import ACT_BYTES, Matrix


class SublayerBuilder:
    """Makes attention and MLP of any layer, one rank's share of each.

    ValueError where the spec cannot be run as asked.
    """

    def __init__(
        self,
        spec: ModelSpec,
        options: ModelOptions,
        checkpoint: Checkpoint | None,
        where: torch.device,
    ) -> None:
        self.spec, self.options, self.checkpoint, self.where = spec, options, checkpoint, where
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
        if block.cache.wants_inputs:
            block.cache.projection = block
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

    def _cache_layer(self, heads: Heads, layer: int) -> CacheLayer:
        made = self.cache.cache_layer(heads, self.options.block_size, layer)
        made.max_drafts = self.options.max_drafts
        if self.options.attending is not None:
            made.attending = self.options.attending.attending(heads, layer)
        if self.options.retainers is not None:
            made.retainer = self.options.retainers.retainer(layer)
        return made
