"""The device `cpu`: native kernels where they are installed, reference kernels for what those lack.

Forward passes of few tokens are recorded once per batch shape and then replayed (see
`kernels.cpu.recorded`), so that a decoding step costs no Python per op.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from twofold.devices.base import Model, OpTotals, T
from twofold.devices.registry import Kernels
from twofold.devices.torch_device import TorchDevice
from twofold.errors import nearest
from twofold.kernels.cpu import native, why_missing
from twofold.kernels.cpu.threads import default_threads
from twofold.kernels.registry import CPU, REFERENCE
from twofold.ops.base import Op

if TYPE_CHECKING:
    from twofold.kernels.cpu.context import CpuContext
    from twofold.kernels.cpu.recorded import Recorder, Recording
    from twofold.models.cache import CacheLayer
    from twofold.models.step import StepInput

MOST_TOKENS = 512
"""Tokens of the largest step that is recorded: a usual piece of a prompt. The calls that a recording saves,
some microseconds each, are next to nothing in a larger step."""
MOST_BYTES = 64 << 20
"""Bytes of intermediate results that all recordings of a device may keep."""

Shape = tuple[int, ...]


class CpuDevice(TorchDevice):
    """Executes ops on this machine's processor.

    kernels: "native" (products quantise their activations to 8 bits), "native-fp32" (they do not),
    "reference" (plain torch), or "auto": native where it is installed, else reference, with a warning.
    threads: of the native kernels and of torch; default: one per core, and torch's own number; of several
    ranks each has its share of the cores for both. ValueError where native kernels are asked for and are not
    installed, or threads are none.

    reference_ops: counted where native kernels are used.
    """

    def __init__(
        self,
        *,
        kernels: Kernels = "auto",
        threads: int | None = None,
        profile: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._recordings: OrderedDict[Shape, Recording] = OrderedDict()
        super().__init__("cpu", profile=profile, rank=rank, ranks=ranks)
        if threads is None and ranks > 1:
            threads = max(1, default_threads() // ranks)
        if threads is not None:
            if threads < 1:
                raise ValueError(f"threads is {threads}; it must be at least 1")
            torch.set_num_threads(threads)
        self.threads = threads or default_threads()
        self.context = _context(kernels, self.threads)
        self.cache_format = None if self.context is None else "f16"
        self.stored_weights = self.context is not None
        self.native_kernels = CPU if self.context is not None else {}
        self._recorder: Recorder | None = None
        self._seen: Counter[Shape] = Counter()
        self._models: dict[int, weakref.ref[Any]] = {}

    def settings(self) -> dict[str, object]:
        """The kernels and their instruction set, and the number of threads."""
        if self.context is None:
            return {"kernels": "reference", "threads": torch.get_num_threads()}
        kernels = "native-fp32" if self.context.exact else "native"
        return {"kernels": kernels, "isa": self.isa, "threads": self.threads}

    @property
    def isa(self) -> str | None:
        """The instruction set of the native kernels; None where reference kernels are used."""
        return None if self.context is None else str(self.context.native.isa())

    def meet(self, folder: Path, processes: Sequence[int]) -> None:
        """As `TorchDevice.meet`; native kernels meet in memory that the processes share."""
        if self.context is not None:
            from twofold.kernels.cpu.collectives import share_memory

            share_memory(self.context, folder / "memory", self.rank, processes)
        super().meet(folder, processes)

    # --- ops ---

    def execute(self, op: Op, *args: Any) -> Any:
        """Run the native kernel of `op`, or else its reference kernel."""
        if self._recorder is not None:
            return self._recorder.execute(op, *args)
        self._ops.append(op)
        start = time.perf_counter() if self.profile else 0.0
        kernel = self.native_kernels.get(type(op))
        out = NotImplemented if kernel is None else kernel(self.context, op, *args)
        if out is NotImplemented:
            if self.context is not None:
                self.reference_ops[type(op).__name__] += 1
            out = REFERENCE[type(op)](op, *args)
        if self.profile:
            self._seconds.append(time.perf_counter() - start)
        return out

    def attend(self, cache: CacheLayer, step: StepInput, q: Any, k: Any, v: Any, *inputs: Any) -> Any:
        """Attention of one layer; a technique's own sequence of ops is recorded as one call."""
        recorder = self._recorder
        if recorder is None:
            return super().attend(cache, step, q, k, v, *inputs)
        if step.observed or recorder.is_one_call(cache, step.num_tokens):
            out = self.whole(lambda: cache.attend(self, step, q, k, v, *inputs))
        else:
            out = cache.attend(self, step, q, k, v, *inputs)
        recorder.written(cache)
        return out

    def whole(self, function: Callable[[], T]) -> T:
        """As `Device.whole`."""
        recorder = self._recorder
        if recorder is None:
            return function()

        def apart() -> T:
            before, self._recorder = self._recorder, None
            try:
                return function()
            finally:
                self._recorder = before

        found: T = recorder.call(apart)
        return found

    # --- steps ---

    @torch.inference_mode()
    def forward(self, model: Model, step: StepInput) -> Any:
        """Logits of `step`: recorded when its shape comes for the second time, replayed from then on."""
        if not self._records(model, step):
            return model.forward(step, self)
        shape = (
            id(model),
            step.num_tokens,
            step.num_logits,
            step.logit_rows is None,
            bool(step.block_tables),
            bool(step.observed),
        )
        recording = self._recordings.get(shape)
        if recording is not None and not recording.is_current():
            self._forget(id(model))
            recording = None
        if recording is None:
            self._watch(model)
            self._seen[shape] += 1
            if self._seen[shape] != 2:  # beyond, it was recorded and found too large to keep
                return model.forward(step, self)
            recording = self._record(shape, model, step)
            logits = recording.logits
        else:
            self._recordings.move_to_end(shape)
            logits = self._replay(recording, step)
        recording.add_cache_costs(self._spent)
        if shape not in self._recordings:
            recording.settle(self._spent)
        self.reference_ops.update(recording.reference_ops)
        return logits

    def _records(self, model: Model, step: StepInput) -> bool:
        """Whether a step like this is worth recording, and can be."""
        return (
            self.context is not None
            and step.token_ids is not None
            and step.num_tokens <= MOST_TOKENS
            and step.hidden_rows is None
            and getattr(model, "precision", None) == "fp32"
        )

    # --- recordings ---

    def _replay(self, recording: Recording, step: StepInput) -> Any:
        if not self.profile:
            return recording.replay(step)
        seconds: dict[str, float] = {}
        logits = recording.replay_timed(step, seconds)
        self._add_seconds(seconds)
        return logits

    def _add_seconds(self, seconds: dict[str, float]) -> None:
        for kind, taken in seconds.items():
            self._spent.setdefault(kind, OpTotals()).seconds += taken

    def _record(self, shape: Shape, model: Model, step: StepInput) -> Recording:
        from twofold.kernels.cpu.recorded import Recorder

        assert self.context is not None
        self._recorder = Recorder(self.context, self.native_kernels, step)
        try:
            recording = self._recorder.record(lambda static: model.forward(static, self), model)
            if self.profile:
                self._add_seconds(self._recorder.seconds)
        finally:
            self._recorder = None
        if recording.nbytes > MOST_BYTES:
            return recording
        self._recordings[shape] = recording
        kept = sum(r.nbytes for r in self._recordings.values())
        while kept > MOST_BYTES:
            oldest, dropped = self._recordings.popitem(last=False)
            kept -= dropped.nbytes
            dropped.settle(self._spent)
            self._seen[oldest] = 0
        return recording

    @property
    def totals(self) -> dict[str, OpTotals]:
        """Work and time by op kind since the last `reset_totals`."""
        for recording in self._recordings.values():
            recording.settle(self._spent)
        return self._spent

    @totals.setter
    def totals(self, value: dict[str, OpTotals]) -> None:
        self._spent: dict[str, OpTotals] = value
        for recording in self._recordings.values():
            recording.runs = 0

    def _watch(self, model: Model) -> None:
        key = id(model)
        if key not in self._models:
            me = weakref.ref(self)

            def gone(_: object) -> None:
                device = me()
                if device is not None:
                    device._forget(key)
                    device._models.pop(key, None)

            self._models[key] = weakref.ref(model, gone)

    def _forget(self, key: int) -> None:
        """Drop the recordings of the model with that id."""
        for shape in [s for s in self._recordings if s[0] == key]:
            self._recordings.pop(shape).settle(self._spent)
        for shape in [s for s in self._seen if s[0] == key]:
            del self._seen[shape]


def _context(kernels: Kernels, threads: int) -> CpuContext | None:
    """The native side, or None for reference kernels."""
    if kernels not in get_args(Kernels):
        raise ValueError(f"unknown kernels {kernels!r}; {nearest(kernels, get_args(Kernels))}")
    if kernels == "reference":
        return None
    extension = native()
    if extension is None:
        if kernels != "auto":
            raise ValueError(
                f"kernels {kernels!r} are not here; kernels 'auto' would do without: {why_missing()}"
            )
        _warn()
        return None
    from twofold.kernels.cpu import attention, collectives, compaction, elementwise, linear  # noqa: F401
    from twofold.kernels.cpu.context import CpuContext

    return CpuContext(extension, threads, exact=kernels == "native-fp32")


@cache
def _warn() -> None:
    """Say once per process that native kernels are missing."""
    warnings.warn(why_missing(), stacklevel=2)
