"""Putting a model together: a spec, perhaps a checkpoint, and the techniques that change how it is stored or
cut."""

from __future__ import annotations

from collections.abc import Callable

import torch

from twofold.models.context import Maybe
from twofold.models.dense_cache import DenseCacheScheme
from twofold.models.options import AllLayers, ModelOptions
from twofold.models.packed import PackedMatrix
from twofold.models.rope import RotaryTables, table_elements
from twofold.models.shard import Part, Shard, whole
from twofold.models.spec import ModelSpec
from twofold.models.sublayers import SublayerBuilder
from twofold.models.tensors import Checkpoint
from twofold.models.transformer import Transformer, TransformerLayer
from twofold.models.weights import Matrix

__all__ = ["ModelOptions", "build_model"]


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
    return _Builder(spec, options, checkpoint, where or torch.device("cpu")).build(progress)


class _Builder(SublayerBuilder):
    def build(self, progress: Callable[[int, int], None] | None) -> Transformer:
        """All layers, embeddings and head."""
        spec = self.spec
        layers = []
        for i in range(spec.num_layers):
            layers.append(self.layer(i))
            if progress is not None:
                progress(i + 1, spec.num_layers)
        for i, layer in enumerate(
            layers
        ):  # once all are made: what one costs may depend on how many there are
            layer.signature = self.signature(i, layer)
        placement = self.options.placement
        if placement is not None and self.checkpoint is not None:
            placement.finish()
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
            placement,
            self.options.plain_cache or DenseCacheScheme(),
        )

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
        selection = self.options.selection or AllLayers()
        attention = self.attention(i) if selection.keeps_attention(i, n) else None
        mlp = self.mlp(i) if selection.keeps_mlp(i, n) else None
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
        if self.options.placement is not None:
            self.options.placement.place(layer, n, real=self.checkpoint is not None)
        return layer

    def signature(self, i: int, layer: TransformerLayer) -> object:
        """Equal for layers that emit equal ops: of `layer`, number `i`."""
        spec = self.spec
        return (
            None if layer.attention is None else (spec.layer_window(i), layer.attention.cache.cost_key),
            None if layer.mlp is None else spec.has_experts(i),
            tuple((m.format.name, m.nbytes, m.space) for m in layer.matrices()),
        )


def _split(layers: list[TransformerLayer], stages: int) -> list[list[TransformerLayer]]:
    """`layers` in `stages` runs of nearly equal length, longer ones first."""
    short, extra = divmod(len(layers), stages)
    out, start = [], 0
    for stage in range(stages):
        end = start + short + (1 if stage < extra else 0)
        out.append(layers[start:end])
        start = end
    return out
