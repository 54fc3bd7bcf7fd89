"""A pass over one sequence through the first layers of a model that leaves nothing behind.

Each layer sees the whole sequence before the next one starts, so that keys and values of one layer at a time
are held, in a store that all layers share. Tokens go through a layer in chunks, which bounds the activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer, CacheSize
from twofold.models.context import Context
from twofold.models.step import StepInput
from twofold.models.transformer import Residual, Transformer, TransformerLayer
from twofold.models.weights import ACT_BYTES
from twofold.ops.attention import Span
from twofold.ops.movement import Send

CHUNK = 4096
"""Tokens that go through a layer at once: enough to read its weights seldom, with small activations."""

Chunk = tuple[Residual, Context]


class LayerPass:
    """The first `num_layers` layers of `model`, to be run over one whole sequence at a time.

    layers: copies that share the model's weights but not its caches.
    """

    def __init__(self, model: Transformer, num_layers: int) -> None:
        assert 0 <= num_layers <= model.spec.num_layers
        self.model = model
        self._stages: list[list[TransformerLayer]] = []
        for stage in model.stages:
            self._stages.append([self._uncached(layer) for layer in stage if layer.index < num_layers])
            if stage[-1].index >= num_layers:
                break

    @property
    def layers(self) -> list[TransformerLayer]:
        """The layers of the pass in order."""
        return [layer for stage in self._stages for layer in stage]

    def held_bytes(self, tokens: int) -> int:
        """Bytes that a sequence of `tokens` keeps alive during the pass, beside the activations of a step of
        CHUNK tokens: the residual stream and what is to be added to it, one layer's keys, values, rotations.
        """
        spec = self.model.spec
        held = 0 if not self._caches else self._caches[0].block_bytes() * self._blocks(tokens)
        tables = 2 if spec.rope_local_theta is not None else 1
        rotations = 2 * tables * spec.rope_dim if spec.positions == "rope" else 0
        return held + tokens * (2 * spec.hidden + rotations) * ACT_BYTES[self.model.precision]

    def begin(self, step: StepInput, device: Device) -> list[Chunk]:
        """Embed the one sequence of `step`. Returns the residual stream and context of each of its chunks."""
        assert len(step.spans) == 1, "a pass takes one sequence"
        tokens = step.num_tokens
        if step.token_ids is not None and self._caches:
            store = self._caches[0]
            store.allocate(CacheSize(self._blocks(tokens), store.block_size, 1), step.token_ids.device)
            for cache in self._caches:
                cache.tensors = store.tensors
        return [
            self.model.start(self._slice(step, start, min(start + CHUNK, tokens)), device)
            for start in range(0, tokens, CHUNK)
        ]

    def run(self, chunks: list[Chunk], device: Device) -> None:
        """Run all layers of the pass on `chunks`."""
        tokens = sum(ctx.step.num_tokens for _, ctx in chunks)
        size = tokens * self.model.spec.hidden * ACT_BYTES[self.model.precision]
        for number, stage in enumerate(self._stages):
            if number:
                device.execute(Send(size, self.model.parallel.pp, "pp"))
            for layer in device.each(stage):
                for stream, ctx in chunks:
                    layer(stream, ctx)

    def end(self) -> None:
        """Free the shared keys and values."""
        for cache in self._caches:
            cache.tensors = {}

    @property
    def _caches(self) -> list[CacheLayer]:
        return [layer.attention.cache for layer in self.layers if layer.attention is not None]

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._caches[0].block_size)

    def _uncached(self, layer: TransformerLayer) -> TransformerLayer:
        attention = layer.attention
        if attention is None:
            return layer
        engines = attention.cache
        cache = self.model.plain_cache.cache_layer(engines.heads, engines.block_size, layer.index)
        assert isinstance(layer.signature, tuple)
        # What distinguishes layers stays; how the engine's caches are stored does not matter here.
        signature = ((engines.heads.window, cache.cost_key), *layer.signature[1:])
        return replace(layer, attention=replace(attention, cache=cache), signature=signature)

    def _slice(self, step: StepInput, start: int, end: int) -> StepInput:
        """Tokens `start` to `end` of the one sequence of `step`, whose blocks follow each other: token i lies
        in slot i."""
        spans = [Span(end - start, end)]
        if step.token_ids is None:
            return StepInput(spans, end - start, 0)
        assert step.positions is not None
        part = StepInput(
            spans,
            end - start,
            0,
            step.token_ids[start:end],
            step.positions[start:end],
            torch.arange(start, end, device=step.token_ids.device),
            rows=[0],
            block_tables=[range(self._blocks(end) if self._caches else 0)],
            block_size=self._caches[0].block_size if self._caches else 0,
        )
        part.starts = [0]
        return part


def text_step(model: Transformer, token_ids: Sequence[int]) -> StepInput:
    """A step in which `model` reads all of one text, on the device of its weights."""
    where = None if model.norm.weight is None else model.norm.weight.device
    tokens = len(token_ids)
    ids = torch.tensor(list(token_ids), device=where)
    return StepInput([Span(tokens, tokens)], tokens, 0, ids, torch.arange(tokens, device=where))
