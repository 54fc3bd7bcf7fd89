"""Looking at the queries and keys of every layer while the unmodified model reads a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from twofold.devices.base import Device
from twofold.models.attending import Attending
from twofold.models.attention import AttentionBlock
from twofold.models.cache import CacheLayer
from twofold.models.layer_pass import LayerPass, text_step
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Attention

See = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Takes the number of a layer, its queries [T, H, D] and its keys [T, K, D], rotated."""


class _Watching(Attending):
    """Plain attention that lets `see` look at the queries and keys of its layer."""

    def __init__(self, layer: int, see: See) -> None:
        self.layer, self.see = layer, see

    def attend(
        self,
        device: Device,
        cache: CacheLayer,
        step: StepInput,
        plain: Attention,
        q: torch.Tensor | None,
        *new: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """q [T, H, D] to [T, H · v_dim]."""
        assert q is not None, "a modelled device has no queries"
        keys, _ = cache.read(step, 0)
        self.see(self.layer, q, keys[-len(q) :])
        out: torch.Tensor | None = device.execute(plain, q, cache, step, *new)
        return out


@torch.inference_mode()
def watch(model: Transformer, device: Device, token_ids: Sequence[int], see: See) -> None:
    """Run the attention layers of `model` over `token_ids` on a real device, and call `see` for each; a long
    text comes in several pieces per layer."""
    assert device.real, "queries and keys are computed on a real device alone"
    passing = LayerPass(model, model.spec.num_layers)
    for layer in passing.layers:
        if layer.attention is not None:
            assert isinstance(layer.attention, AttentionBlock)
            layer.attention.cache.attending = _Watching(layer.index, see)
    device.begin_step()
    passing.run(passing.begin(text_step(model, token_ids), device), device)
    passing.end()
    device.end_step()
