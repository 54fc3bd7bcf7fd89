"""Recorded steps: the ops of a forward pass, kept while they run once and replayed for every later batch of
the same shape.

Ops with a native kernel become instructions of a native program; what lies between two Python calls is one
native call. An op without one is kept as a call of its reference kernel, in its place, and an attention
technique with a sequence of its own (an overridden `CacheLayer.attend` or `Attending.attend`) as a call of
that. All of them work on the same tensors each time: those of the recording.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from twofold.devices.base import Model, OpTotals
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import REFERENCE, Kernel
from twofold.models.cache import CacheLayer
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, CacheWrite
from twofold.ops.base import Op


@dataclass(slots=True)
class PythonCall:
    """A call between two native instructions: what to call before instruction number `position`, and the
    tensors that what follows reads its results from. op, kind: its name and kind where it is an op's
    reference kernel; what a technique's own call executes is timed by whoever executes it."""

    position: int
    function: Callable[[], Any]
    outputs: tuple[torch.Tensor, ...]
    op: str | None = None
    kind: str | None = None

    def __call__(self) -> None:
        """Call, and put the results where they were when it was recorded."""
        for target, source in zip(self.outputs, tensors_of(self.function()), strict=True):
            if source.data_ptr() != target.data_ptr():
                target.copy_(source)


@dataclass(slots=True)
class CacheCosts:
    """Cache layers that cost the same: one of them, how many write, and how many attend."""

    cache: CacheLayer
    writes: int = 0
    reads: int = 0


@dataclass(slots=True)
class Recording:
    """A forward pass of one model for one batch shape.

    step: its static input; program: the native instructions; arena: the memory of their results; calls: what
    runs in Python between them, in order; watched_calls: the same, and between them what tells of each layer
    that has stored its entries, for steps that want to know; totals: what its ops count by kind, but for
    those of the cache, which depend on the step: cache_costs. reference_ops: how many of its calls are an
    op's reference kernel, by the op's name. held: the storage of each cache layer it points to. runs: since
    its totals were asked for. kinds: of the op that each native instruction is part of.
    """

    step: StepInput
    program: Any
    arena: Any
    calls: list[PythonCall] = field(default_factory=list)
    watched_calls: list[PythonCall] = field(default_factory=list)
    logits: torch.Tensor | None = None
    totals: dict[str, OpTotals] = field(default_factory=dict)
    cache_costs: dict[object, CacheCosts] = field(default_factory=dict)
    reference_ops: Counter[str] = field(default_factory=Counter)
    held: list[tuple[CacheLayer, object]] = field(default_factory=list)
    runs: int = 0
    kinds: list[str] = field(default_factory=list)
    _length: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of intermediate results that it keeps."""
        own = {t.data_ptr(): t.numel() * t.element_size() for call in self.calls for t in call.outputs}
        return int(self.arena.nbytes) + sum(own.values())

    def is_current(self) -> bool:
        """Whether the caches still lie where they did."""
        return all(cache.tensors is tensors for cache, tensors in self.held)

    def replay(self, step: StepInput) -> torch.Tensor | None:
        """Run on `step`; returns the recorded logits, overwritten."""
        self.step.refresh(step)
        run, at = self.program.run, 0
        for call in self._calls_of(step):
            if call.position > at:
                run(at, call.position)
                at = call.position
            call()
        if at < self._length:
            run(at, self._length)
        return self.logits

    def replay_timed(self, step: StepInput, seconds: dict[str, float]) -> torch.Tensor | None:
        """The same, and adds to `seconds` what each kind of op took."""
        self.step.refresh(step)
        at = 0
        for call in [*self._calls_of(step), None]:
            position = self._length if call is None else call.position
            if position > at:
                times = self.program.run_timed(at, position)
                for kind, taken in zip(self.kinds[at:position], times, strict=True):
                    seconds[kind] = seconds.get(kind, 0.0) + taken
                at = position
            if call is not None:
                start = time.perf_counter()
                call()
                if call.kind is not None:
                    seconds[call.kind] = seconds.get(call.kind, 0.0) + time.perf_counter() - start
        return self.logits

    def _calls_of(self, step: StepInput) -> list[PythonCall]:
        return self.calls if step.written is None else self.watched_calls

    def settle(self, totals: dict[str, OpTotals]) -> None:
        """Add to `totals` what the runs since the last time counted, whatever their steps were."""
        if self.runs:
            for kind, mine in self.totals.items():
                add_totals(totals.setdefault(kind, OpTotals()), mine, self.runs)
            self.runs = 0

    def add_cache_costs(self, totals: dict[str, OpTotals]) -> None:
        """Add to `totals` what a run on the present step counts for its caches, and count the run."""
        self.runs += 1
        for same in self.cache_costs.values():
            write, attention = same.cache.ops(self.step)
            for op, times in ((write, same.writes), (attention, same.reads)):
                if times:
                    add_totals(totals.setdefault(op.kind, OpTotals()), totals_of(op), times)

    def finish(self, logits: torch.Tensor | None, native: int) -> None:
        """The pass is complete, with those logits and that many native instructions."""
        self.logits, self._length = logits, native
        self.reference_ops.update(call.op for call in self.calls if call.op is not None)


class Recorder:
    """Executes the ops of one forward pass and keeps them.

    kernels: the native ones, which take `context` first. seconds: what executing each kind of op took, calls
    from Python included.
    """

    def __init__(self, context: CpuContext, kernels: Mapping[type[Op], Kernel], step: StepInput) -> None:
        native = context.native
        self.context = context
        self.kernels = kernels
        self.seconds: dict[str, float] = {}
        self.recording = Recording(step.static_copy(), native.Program(context.stream), native.Arena())

    def record(self, forward: Callable[[StepInput], torch.Tensor | None], model: Model) -> Recording:
        """Run `forward` on the static step and return what was kept. Whatever it raises leaves nothing
        behind."""
        recording = self.recording
        caches: list[CacheLayer] = getattr(model, "caches", [])
        recording.held = [(cache, cache.tensors) for cache in caches]
        self._resume()
        try:
            logits = forward(recording.step)
        finally:
            self._suspend()
        recording.finish(logits, len(recording.program))
        return recording

    def execute(self, op: Op, *args: Any) -> Any:
        """Run the kernel of `op` and keep it."""
        start = time.perf_counter()
        kernel = self.kernels.get(type(op))
        out = NotImplemented if kernel is None else kernel(self.context, op, *args)
        if out is NotImplemented:
            reference = REFERENCE[type(op)]
            out = self._call(lambda: reference(op, *args), op)
        recording = self.recording
        recording.kinds += [op.kind] * (len(recording.program) - len(recording.kinds))
        self.seconds[op.kind] = self.seconds.get(op.kind, 0.0) + time.perf_counter() - start
        self._count(op, args)
        return out

    @staticmethod
    def is_one_call(cache: CacheLayer, num_tokens: int) -> bool:
        """Whether the cache, or its attention method, attends in a way of its own in steps of so many tokens,
        which is kept as one call."""
        if type(cache).attend is not CacheLayer.attend:
            return True
        return cache.attending is not None and not cache.attending.is_one_op(num_tokens)

    def written(self, cache: CacheLayer) -> None:
        """`cache` has stored its new entries and attended: steps that want to know are told here."""
        recording = self.recording
        step = recording.step

        def tell() -> None:
            if step.written is not None:
                step.written(cache)

        recording.watched_calls.append(PythonCall(len(recording.program), tell, ()))
        tell()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run `function`, which may execute ops on its own account, and keep the call."""
        self._suspend()
        try:
            return self._call(function, None)
        finally:
            self._resume()

    def _call(self, function: Callable[[], Any], op: Op | None) -> Any:
        recording = self.recording
        position = len(recording.program)
        out = function()
        name, kind = (None, None) if op is None else (type(op).__name__, op.kind)
        call = PythonCall(position, function, tensors_of(out), name, kind)
        recording.calls.append(call)
        recording.watched_calls.append(call)
        return out

    def _count(self, op: Op, args: tuple[Any, ...]) -> None:
        recording = self.recording
        if isinstance(op, CacheWrite | Attention):
            cache: CacheLayer = args[0] if isinstance(op, CacheWrite) else args[1]
            costs = recording.cache_costs.setdefault(cache.cost_key, CacheCosts(cache))
            if isinstance(op, CacheWrite):
                costs.writes += 1
            else:
                costs.reads += 1
        else:
            add_totals(recording.totals.setdefault(op.kind, OpTotals()), totals_of(op), 1)

    def _resume(self) -> None:
        self.context.record_into(self.recording.arena)
        self.recording.program.record()

    def _suspend(self) -> None:
        self.recording.program.end()
        self.context.record_into(None)


def tensors_of(out: Any) -> tuple[torch.Tensor, ...]:
    """The tensors that a kernel returned: none, one, or a tuple of them."""
    if out is None:
        return ()
    found = (out,) if isinstance(out, torch.Tensor) else tuple(out)
    assert all(isinstance(t, torch.Tensor) for t in found), f"an op of a forward pass returned {out!r}"
    return found


def totals_of(op: Op) -> OpTotals:
    """What one execution of `op` counts."""
    cost = op.cost()
    return OpTotals(1, 0.0, 0.0, cost.flop, cost.vector_flop, cost.bytes_moved, cost.sent)


def add_totals(into: OpTotals, more: OpTotals, times: int) -> None:
    """Add `more`, `times` over, in place; seconds and joules are not counted but measured."""
    into.calls += more.calls * times
    into.flop += more.flop * times
    into.vector_flop += more.vector_flop * times
    into.bytes_moved += more.bytes_moved * times
    into.sent += more.sent * times
