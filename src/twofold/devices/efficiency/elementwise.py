"""Seconds of ops that touch each element a few times: norms, rotation, activation functions, sums, look-ups.

Such a kernel streams its operands once: from the last cache as far as they fit, for the op before has just
written them, the rest from memory. Kernels that reduce over a row, rotate or gather do not keep the memory
busy: what a unit gets through per second bounds them instead.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twofold.devices.efficiency.machine import Machine
from twofold.devices.figures import Bandwidth, Ratio, Seconds, Strict
from twofold.ops.base import DEVICE, Cost, Op
from twofold.ops.elementwise import Activate, AddNorm, Embedding, Gather, Norm, RotaryQKV, Sample

Kernel = Literal["norm", "layer-norm", "softmax", "activation", "rotary", "gather"]


class ElementwiseEfficiency(Strict):
    """How elementwise ops use a device.

    vector: share of the peak elementwise rate; memory, cache: share of the peak bandwidth of memory and of
    the last cache; launch: seconds per op whatever it does; reduce: seconds more where rows are reduced
    (norms, softmax), for the units' threads to wait for each other; pace: bytes/s that one unit gets through
    in kernels of a kind (norm: root mean square; activation: of a gated MLP; gather: rows of a table), where
    that and not the memory is their bound. Threads take their time per element: wider ones than 16 bits pass
    at as many more bytes/s.
    """

    vector: Ratio
    memory: Ratio
    cache: Ratio
    launch: Seconds
    reduce: Seconds | None = None
    pace: dict[Kernel, Bandwidth] = Field(default_factory=dict)


_HALF = 2.0
_REDUCES: frozenset[Kernel | None] = frozenset({"norm", "layer-norm", "softmax"})
_BY_ROW: frozenset[Kernel] = frozenset({"norm", "layer-norm", "activation", "rotary"})


def kernel_of(op: Op) -> Kernel | None:
    """Which kind of kernel `op` is; None where it only streams."""
    if isinstance(op, Norm | AddNorm):
        return "norm" if op.norm == "rms" else "layer-norm"
    if isinstance(op, Activate):
        return "activation" if op.gated else None
    if isinstance(op, RotaryQKV):
        return "rotary"
    if isinstance(op, Embedding | Gather):
        return "gather"
    return "softmax" if isinstance(op, Sample) else None


class ElementwiseTime:
    """Times elementwise ops on one device."""

    def __init__(self, section: ElementwiseEfficiency, machine: Machine) -> None:
        self.vector = machine.vector * section.vector.value
        self.memory = machine.memory_bandwidth * section.memory.value
        self.capacity = machine.cache_capacity
        self.cache = machine.cache_bandwidth * section.cache.value or self.memory
        self.launch = section.launch.value
        self.reduce = 0.0 if section.reduce is None else section.reduce.value
        self.units = machine.units
        self.pace = {kernel: machine.units * pace.value for kernel, pace in section.pace.items()}

    def seconds(self, op: Op, cost: Cost) -> tuple[float, str]:
        """Seconds of the whole op as far as the device's own memory goes, and what bounds it ("compute",
        "memory", "overhead")."""
        moved = stored = 0.0
        for role, read, written, space in cost.traffic:
            if space == DEVICE:
                if role == "activations":
                    moved += read + written
                else:
                    stored += read + written
        near = min(moved, self.capacity)
        memory = near / self.cache + (moved - near + stored) / self.memory
        compute = cost.vector_flop / self.vector
        kernel = kernel_of(op)
        pace = None if kernel is None else self.pace.get(kernel)
        if pace is not None:
            # Splitting is a view: only what is rotated passes through the units.
            passed = _rotated(op) if isinstance(op, RotaryQKV) else moved + stored
            if kernel in _BY_ROW:
                assert isinstance(op, Norm | AddNorm | Activate | RotaryQKV)
                passed *= max(1.0, self.units / op.tokens) * _HALF / op.act_bytes
            compute = max(compute, passed / pace)
        busy = max(compute, memory)
        fixed = self.launch + self.reduce if kernel in _REDUCES else self.launch
        if fixed > busy:
            return busy + fixed, "overhead"
        return busy + fixed, "compute" if compute > memory else "memory"

    def passes(self, kernels: float, nbytes: float, flop: float) -> float:
        """Seconds of `kernels` that stream `nbytes` of activations in all and do `flop` on them."""
        near = min(nbytes, self.capacity)
        streamed = near / self.cache + (nbytes - near) / self.memory
        return kernels * self.launch + flop / self.vector + streamed


def _rotated(op: RotaryQKV) -> float:
    """Bytes of queries and keys, read and written."""
    return 2.0 * op.tokens * (op.heads + op.kv_heads) * op.head_dim * op.act_bytes
