"""Products with many matrices in turn, timed as the device `cpu` runs them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from twofold.devices.cpu_device import CpuDevice
from twofold.kernels.cpu.linear import FEW
from twofold.measure.probe import constant_tensor, seconds_of
from twofold.models.packed import pack

PACKED = "q4_0"
"""The packed format that is timed: as narrow as those in use get, so that computing shows beside reading."""


class Products:
    """`count` equal matrices [rows, cols] and their products with activations.

    packed: they lie packed in 4 bits and activations are quantised, as with quantised checkpoints; otherwise
    both are float32. nbytes: of all matrices.
    """

    def __init__(self, device: CpuDevice, rows: int, cols: int, count: int, *, packed: bool) -> None:
        self.context = device.context
        self.rows, self.cols, self.count, self.packed = rows, cols, count, packed
        assert self.context is not None or not packed
        if packed:
            one = pack([constant_tensor("w", (rows, cols), PACKED)], cols, exact=False).tensors["packed"]
        else:
            one = torch.full((rows * cols,), 0.01)
        self.pool = one.repeat(count).view(count, -1)
        self.nbytes = self.pool.numel() * self.pool.element_size()

    def seconds(self, tokens: int, budget: float) -> float:
        """Seconds of one pass through all matrices with `tokens` rows of activations (lower quartile)."""
        return seconds_of(self._runner(tokens), budget)

    def _runner(self, tokens: int) -> Callable[[], object]:
        x, y = torch.full((tokens, self.cols), 0.5), torch.empty(tokens, self.rows)
        context = self.context
        if context is None or (not self.packed and tokens > FEW):
            matrices = self.pool.view(self.count, self.rows, self.cols)
            return lambda: [F.linear(x, matrix) for matrix in matrices]
        native, stream = context.native, context.stream
        program = native.Program(stream)
        program.record()
        for matrix in self.pool:
            at, (from_, to) = matrix.data_ptr(), (x.data_ptr(), y.data_ptr())
            if self.packed:
                native.linear(stream, [(PACKED, at, self.rows)], self.cols, from_, tokens, 0, to, False)
            else:
                native.dense_linear(stream, at, self.rows, self.cols, from_, tokens, 0, to)
        program.end()

        def replay(held: tuple[torch.Tensor, ...] = (x, y)) -> None:
            assert len(held) == 2  # the program points to them
            program.run(0, len(program))

        return replay
