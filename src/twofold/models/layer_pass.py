"""A pass over one sequence through the first layers of a model that leaves nothing behind.

Each layer sees the whole sequence before the next one starts, so that keys and values of one layer at a time
are held, in a store that all layers share. Tokens go through a layer in chunks, which bounds the activations.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheSize, Heads
from twofold.models.context import Context
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput
from twofold.models.transformer import Residual, Transformer, TransformerLayer
from twofold.models.weights import ACT_BYTES
from twofold.ops.attention import Span
from twofold.ops.movement import Send

CHUNK = 4096
"""Tokens that go through a layer at once: enough to read its weights seldom, with small activations."""

Chunk = tuple[Residual, Context]


class InFlightCache(DenseCache):
    """Keys and values of the layer that is being run, in tensors that all layers of a pass share."""

    def __init__(self, heads: Heads, block_size: int, shared: dict[str, torch.Tensor]) -> None:
        super().__init__(heads, block_size)
        self.tensors = shared

    def block_bytes(self) -> int:
        """0: it takes no blocks of the engine's."""
        return 0


class LayerPass:
    """The first `num_layers` layers of `model`, to be run over one whole sequence at a time.

    layers: copies that share the model's weights but not its caches.
    """

    def __init__(self, model: Transformer, num_layers: int) -> None:
        assert 0 <= num_layers <= model.spec.num_layers
        self.model = model
        self._shared: dict[str, torch.Tensor] = {}
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
        attentions = [layer.attention for layer in self.model.layers if layer.attention is not None]
        stored = attentions[0].cache.heads.stored_width if attentions else 0
        tables = 2 if spec.rope_local_theta is not None else 1
        rotations = 2 * tables * spec.rope_dim if spec.positions == "rope" else 0
        return tokens * (2 * spec.hidden + stored + rotations) * ACT_BYTES[self.model.precision]

    def begin(self, step: StepInput, device: Device) -> list[Chunk]:
        """Embed the one sequence of `step`. Returns the residual stream and context of each of its chunks."""
        assert len(step.spans) == 1, "a pass takes one sequence"
        tokens = step.num_tokens
        if step.token_ids is not None:
            self._allocate(tokens, step.token_ids.device)
        return [
            self.model.start(_slice(step, start, min(start + CHUNK, tokens)), device)
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
        self._shared.clear()

    def _uncached(self, layer: TransformerLayer) -> TransformerLayer:
        attention = layer.attention
        if attention is None:
            return layer
        cache = InFlightCache(attention.cache.heads, attention.cache.block_size, self._shared)
        window = attention.cache.heads.window
        assert isinstance(layer.signature, tuple)
        # What distinguishes layers stays; how their caches are stored does not matter here.
        signature = ((window, InFlightCache), *layer.signature[1:])
        return replace(layer, attention=replace(attention, cache=cache), signature=signature)

    def _allocate(self, tokens: int, where: torch.device) -> None:
        attention = next((layer.attention for layer in self.layers if layer.attention is not None), None)
        if attention is not None:
            store = DenseCache(attention.cache.heads, tokens)
            store.allocate(CacheSize(1, tokens, 1), where)
            self._shared.update(store.tensors)


def _slice(step: StepInput, start: int, end: int) -> StepInput:
    """Tokens `start` to `end` of the one sequence of `step`, which lies in one block: token i in slot i."""
    spans = [Span(end - start, end)]
    if step.token_ids is None:
        return StepInput(spans, end - start, 0)
    assert step.positions is not None
    return StepInput(
        spans,
        end - start,
        0,
        step.token_ids[start:end],
        step.positions[start:end],
        torch.arange(start, end, device=step.token_ids.device),
        rows=[0],
        block_tables=[[0]],
        block_size=step.num_tokens,
    )
