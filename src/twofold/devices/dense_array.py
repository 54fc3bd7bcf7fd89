"""The base of machines that multiply dense 16-bit numbers on an array, beside lanes, a buffer and a DRAM."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from twofold.devices.machine import Machine
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.tiling import streamed
from twofold.devices.parts.vector_unit import VectorUnit
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Embedding, Gather, Linear, Op
from twofold.ops.base import Precision

ELEMENT = 2  # bytes of a number
FORMATS = ("bf16", "f16")  # of weights that need no widening


class DenseArray(Machine):
    """What such machines have in common: all but products and attention. lanes: what does elementwise work;
    `figures` has buffer_bytes: activations stay in the buffer while it holds them."""

    precisions: ClassVar[tuple[Precision, ...]] = ("bf16", "fp16")
    more: ClassVar[tuple[str, ...]] = ("hertz", "lanes", "bandwidth")
    lanes: VectorUnit

    @abstractmethod
    def dram(self, nbytes: float) -> Work:
        """Bytes to or from the DRAM."""

    @abstractmethod
    def buffer(self, nbytes: float) -> Work:
        """Bytes through the buffer, which keeps up with the array."""

    def operands(self, weights: float, inputs: int, outputs: int) -> Work:
        """Bytes of weights and numbers that enter and leave a product, to and from the DRAM: half of the
        buffer holds what stays while the rest passes."""
        half = self.figures.buffer_bytes / 2
        entering, leaving = inputs * ELEMENT, outputs * ELEMENT
        read = streamed(weights, entering, held=half, weights_room=half, inputs_room=half)
        return self.dram(read + (leaving if leaving > half else 0))

    def cache_write(self, op: CacheWrite) -> Work:
        """Into the DRAM."""
        if op.pack_flop or op.space != "device":
            raise self.refusal(op, "it stores keys and values as 16-bit numbers; keep a dense cache")
        return self.dram(op.cache_bytes)

    def embedding(self, op: Embedding) -> Work:
        """Rows from the DRAM, and their sum."""
        rows = self.dram(op.tokens * op.row_bytes * op.tables)
        return rows.then(self.elementwise(op)) if op.tables > 1 else rows

    def elementwise(self, op: Op) -> Work:
        """On the lanes."""
        if isinstance(op, Gather):
            return NOTHING
        arithmetic = arithmetic_of(op)
        assert arithmetic is not None
        moved = op.cost().bytes_moved
        spilled = moved if moved > self.figures.buffer_bytes else 0.0
        return self.lanes.run(arithmetic).beside(self.buffer(moved)).beside(self.dram(spilled))

    # --- refusals ---

    def check_linear(self, op: Linear) -> None:
        """ValueError for weights that are not dense 16-bit numbers in its own DRAM."""
        self.check_precision(op)
        if type(op) is not Linear or op.format not in FORMATS or op.space != "device":
            raise self.refusal(
                op,
                f"it multiplies dense 16-bit weights from its own DRAM, not {op.format} in {op.space} "
                "memory; store the weights as bf16 or f16",
            )

    def check_attention(self, op: Attention) -> None:
        """ValueError for anything but the whole of a cache of 16-bit numbers."""
        self.check_precision(op)
        if type(op) is not Attention or op.widen_flop or op.space != "device":
            raise self.refusal(
                op, "it multiplies the whole cache as 16-bit numbers; keep a dense cache in device memory"
            )
