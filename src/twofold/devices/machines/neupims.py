"""NeuPIMs: an NPU and HBM that multiplies in its banks, both working at the same time.

Source: Heo et al., "NeuPIMs: NPU-PIM heterogeneous acceleration for batched LLM inferencing" (ASPLOS 2024,
arXiv:2403.00579). Every bank has a row buffer for memory and another for arithmetic (PIM_HEADER and PIM_GEMV
keep the commands for both few enough for one bus), so that

- scores and values of some heads are multiplied in the banks while others' softmax is in the vector units;
- requests go to the channel with the least work (greedy bin packing by estimated time);
- a large batch is cut into two sub-batches, one of which attends while the other's matrices are multiplied.
  Weights are then read twice. The first and the last block, which nothing is interleaved with, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.devices.machines.neupims_naive import NeupimsNaive, PimFigures
from twofold.devices.parts.work import Work
from twofold.ops import Attention, Embedding, Linear, Op

NPU, PIM = "npu", "pim"
SOURCES = {
    **NeupimsNaive.sources,
    "sub_batches_from": "github.com/casys-kaist/NeuPIMs @f299af3, README: sub-batch interleaving from "
    "a batch of 256",
}
"""Where each figure of `NeupimsFigures` comes from."""


@dataclass(frozen=True, slots=True)
class NeupimsFigures(PimFigures):
    """sub_batches_from: tokens of a step from which on it is cut into two sub-batches."""

    sub_batches_from: int = 256


class Neupims(NeupimsNaive):
    """The modelled machine. `figures`: its numbers."""

    name = "neupims"
    title = "NeuPIMs: an NPU and HBM with dual row buffers that multiplies in its banks"
    kind = "npu+pim"
    source = "NeuPIMs, arXiv:2403.00579; ASPLOS 2024"
    sources = SOURCES
    # Sub-batches wait for their weights: more arrays help none but long prompts.
    more = ("hbm.shape.channels", "hbm.shape.banks", "vector.multipliers", "vector.hertz")

    figures: NeupimsFigures

    def __init__(self, figures: NeupimsFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or NeupimsFigures(), tp=tp)

    def linear(self, op: Linear) -> Work:
        """One sub-batch after the other."""
        self._check(op)
        if op.tokens < self.figures.sub_batches_from:
            return self._product(op, op.tokens)
        first = op.tokens // 2
        return self._product(op, first).then(self._product(op, op.tokens - first))

    def attention(self, op: Attention) -> Work:
        """Prompts on the NPU; then scores and values in the banks beside softmax on the NPU."""
        prompts = self._prompts(op)
        if not op.totals.singles:
            return prompts
        banks = self._in_banks(op, self._scores).then(self._in_banks(op, self._values))
        return prompts.then(banks.beside(self._softmax(op)))

    def busiest(self, requests: int, mean: float, longest: float) -> float:
        """Seconds of the busiest channel, packed greedily: as evenly as whole requests can be."""
        return max(longest, -(-requests // self.figures.hbm.shape.channels) * mean)

    def unit(self, op: Op) -> str:
        """The banks for attention of single queries, the NPU for all else that belongs to a sub-batch."""
        if isinstance(op, Attention):
            t = op.totals
            return PIM if t.queries == t.singles >= self.figures.sub_batches_from else ""
        if isinstance(op, Embedding):
            return ""
        tokens = getattr(op, "tokens", 0)
        return NPU if tokens >= self.figures.sub_batches_from else ""

    def overlapped(self, seconds: float, busy: dict[str, float]) -> float:
        """Both units work on different sub-batches: the less busy one is hidden."""
        return seconds - min(busy.get(NPU, 0.0), busy.get(PIM, 0.0))


MACHINE = Neupims
