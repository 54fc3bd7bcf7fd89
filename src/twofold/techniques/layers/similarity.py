"""How much each sublayer of a model changes the direction of its input: depth pruning's measure of
redundancy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from twofold.devices.base import Device
from twofold.models.layer_pass import LayerPass, text_step
from twofold.models.transformer import Residual, Transformer


@dataclass(frozen=True)
class Similarities:
    """Mean cosine similarity of input and output (residual included), by layer; 1 = nothing is changed.

    block: of both sublayers together.
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    block: tuple[float, ...]

    def of(self, kind: str) -> tuple[float, ...]:
        """Those of "attention", "mlp" or "block"."""
        return {"attention": self.attention, "mlp": self.mlp, "block": self.block}[kind]


@torch.inference_mode()
def sublayer_similarities(model: Transformer, device: Device, token_ids: Sequence[int]) -> Similarities:
    """Run the whole `model` (no sublayer may be missing) over `token_ids` on a real device and compare."""
    assert device.real, "similarities need activations"
    passing = LayerPass(model, model.spec.num_layers)
    device.begin_step()
    chunks = passing.begin(text_step(model, token_ids), device)
    found: dict[str, list[float]] = {"attention": [], "mlp": [], "block": []}
    for layer in passing.layers:
        before = _state(chunks)
        attention_only, mlp_only = replace(layer, mlp=None), replace(layer, attention=None)
        for stream, ctx in chunks:
            attention_only(stream, ctx)
        between = _state(chunks)
        for stream, ctx in chunks:
            mlp_only(stream, ctx)
        after = _state(chunks)
        pairs = (("attention", before, between), ("mlp", between, after), ("block", before, after))
        for kind, x, y in pairs:
            found[kind].append(float(F.cosine_similarity(x, y, dim=-1).mean()))
    passing.end()
    device.end_step()
    return Similarities(tuple(found["attention"]), tuple(found["mlp"]), tuple(found["block"]))


def _state(chunks: Sequence[tuple[Residual, object]]) -> torch.Tensor:
    """The residual stream [T, hidden] in float32, with what is still to be added to it."""
    states = []
    for stream, _ in chunks:
        assert stream.x is not None
        state = stream.x.float()
        states.append(state if not stream.pending or stream.delta is None else state + stream.delta.float())
    return torch.cat(states)
