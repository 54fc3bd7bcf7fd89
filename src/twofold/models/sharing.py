"""One set of weights for several instances of a model, each of which has caches of its own."""

from __future__ import annotations

from dataclasses import replace

from twofold.models.transformer import Transformer, TransformerLayer


def with_caches_of(model: Transformer, shell: Transformer) -> Transformer:
    """The weights of `model` with the caches of `shell`, which was built from the same options without
    weights."""
    stages = [
        [_layer(mine, theirs) for mine, theirs in zip(stage, other, strict=True)]
        for stage, other in zip(model.stages, shell.stages, strict=True)
    ]
    return replace(model, stages=stages)


def _layer(layer: TransformerLayer, shell: TransformerLayer) -> TransformerLayer:
    if layer.attention is None:
        return layer
    assert shell.attention is not None
    return replace(layer, attention=replace(layer.attention, cache=shell.attention.cache))
