"""The MLP whose neurons lie on disk, run with those that its predictor finds active."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from twofold.kernels.reference.elementwise import activation
from twofold.models.context import Context, Maybe
from twofold.models.mlp import MLPBlock
from twofold.models.spec import ModelSpec
from twofold.models.weights import ACT_BYTES, Matrix
from twofold.ops.base import Precision
from twofold.techniques.placement.flash_ops import FetchNeurons, NeuronMLP
from twofold.techniques.placement.neuron_store import NeuronStore


@dataclass(slots=True)
class Expected:
    """What a modelled device is charged for: shares of an MLP's neurons that a token uses, and that a step of
    one token has to read from the disk."""

    active: float
    loaded: float

    def of(self, tokens: int, num_neurons: int) -> tuple[int, int]:
        """Neurons that a step of `tokens` uses and reads: tokens choose independently of each other."""
        used, read = (1.0 - (1.0 - share) ** tokens for share in (self.active, self.loaded))
        return max(1, round(used * num_neurons)), max(1, round(min(used, read) * num_neurons))


@dataclass(slots=True)
class FlashMLP(MLPBlock):
    """Runs in the place of an MLPBlock. `gate_up` is the gate alone, which stays in memory and decides
    exactly which neurons matter; of a plain MLP, `gate_up` and `down` are the factors of its predictor. A
    token uses a neuron whose magnitude there is above `threshold`.

    counters: see `llm_in_a_flash.NeuronWindows`, whose all layers share them.
    """

    num_neurons: int = 0
    gated: bool = True
    threshold: float = 0.0
    store: NeuronStore | None = None
    expected: Expected = field(default_factory=lambda: Expected(1.0, 1.0))
    counters: dict[str, int] = field(default_factory=dict)

    def matrices(self) -> list[Matrix]:
        """Those that stay in memory."""
        return [self.gate_up] if self.gated else [self.gate_up, self.down]

    def __call__(self, x: Maybe, ctx: Context) -> Maybe:
        """[T, hidden] to [T, hidden]."""
        if x is None:
            self._charge(ctx)
            return None
        given = x
        return ctx.device.whole(lambda: self._run(given, ctx))

    def _charge(self, ctx: Context) -> None:
        tokens, run = ctx.step.num_tokens, ctx.device.execute
        for matrix in self.matrices():
            run(matrix.op(tokens, self.precision))
        used, read = self.expected.of(tokens, self.num_neurons)
        run(FetchNeurons(read, self.spec.hidden))
        run(self._product(tokens, used))
        self.counters["steps"] += 1

    def _run(self, x: torch.Tensor, ctx: Context) -> torch.Tensor:
        assert self.store is not None
        store, run, tokens = self.store, ctx.device.execute, len(x)
        scores = run(self.gate_up.op(tokens, self.precision), x, self.gate_up)
        if not self.gated:
            scores = run(self.down.op(tokens, self.precision), scores, self.down)
        before = activation(scores, self.spec.activation, gated=False) if self.gated else scores
        active = (before.abs() if self.gated else scores) > self.threshold
        wanted = active.any(0).nonzero().flatten().numpy()
        count = self.counters
        count["steps"] += 1
        count["tokens"] += tokens
        count["neurons_used"] += int(active.sum())
        if not len(wanted):
            return torch.zeros_like(x)
        missing = store.missing(wanted)
        count["neurons_read"] += len(missing)
        if tokens == 1:
            count["single_steps"] += 1
            count["single_read"] += len(missing)

        def hidden(up: torch.Tensor) -> torch.Tensor:
            mask = active[:, wanted]
            if self.gated:
                return up * before[:, wanted] * mask
            bias = 0.0 if self.gate_up_bias is None else self.gate_up_bias[wanted]
            return activation(up + bias, self.spec.activation, gated=False) * mask

        if len(wanted) > len(store.window):  # a prompt wants nearly all: they pass by the window
            rows = run(FetchNeurons(len(wanted), self.spec.hidden), lambda: store.read(wanted))
            count["neurons_read"] += len(wanted) - len(missing)
        else:
            fetch = FetchNeurons(len(missing), self.spec.hidden)
            new = run(fetch, lambda: store.read(missing)) if len(missing) else store.window[:0]
            rows = store.window[store.keep(wanted, missing, new)]
        out: torch.Tensor = run(self._product(tokens, len(wanted)), x, rows, hidden)
        return out if self.down_bias is None else out + self.down_bias

    def _product(self, tokens: int, neurons: int) -> NeuronMLP:
        act = ACT_BYTES[self.precision]
        return NeuronMLP(tokens, self.spec.hidden, neurons, self.precision, act)


def flash_mlp(block: MLPBlock, resident: list[Matrix], spec: ModelSpec, precision: Precision) -> FlashMLP:
    """What replaces `block`, with the matrices `resident` in memory."""
    return FlashMLP(
        spec,
        block.parallel,
        precision,
        resident[0],
        resident[-1],
        gate_up_bias=block.gate_up_bias,
        down_bias=block.down_bias,
        num_neurons=block.down.in_features,
        gated=spec.gated,
    )
