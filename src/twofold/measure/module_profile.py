"""The device `cpu` with a clock on every module of the model."""

from __future__ import annotations

from typing import Any

from twofold.devices.base import Model
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.registry import Kernels
from twofold.models.modules import ModuleNames
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.ops.base import Op


class ModuleProfiler(CpuDevice):
    """Times every op and adds up by module.

    modules: seconds by module since the last `reset_totals`; steps: what each forward pass since then
    computed (sequences, rows of logits).
    """

    def __init__(self, *, kernels: Kernels = "auto", threads: int | None = None, ranks: int = 1) -> None:
        self.modules: dict[str, float] = {}
        self.steps: list[tuple[list[Span], int]] = []
        self._names: ModuleNames | None = None
        super().__init__(kernels=kernels, threads=threads, profile=True, ranks=ranks)

    def forward(self, model: Model, step: StepInput) -> Any:
        """As `CpuDevice.forward`; notes the step."""
        if self._names is None:
            assert isinstance(model, Transformer)
            self._names = ModuleNames(model)
        self.steps.append(([Span(*span[:2]) for span in step.spans], step.num_logits))
        return super().forward(model, step)

    def execute(self, op: Op, *args: Any) -> Any:
        """As `CpuDevice.execute`; the time counts for the op's module."""
        name = op.kind if self._names is None else self._names(op, args)
        if self._recorder is None:
            out = super().execute(op, *args)
            self._add_seconds({name: self._seconds[-1]})
            return out
        recording = self._recorder.recording
        calls = len(recording.calls)
        native = len(recording.kinds)
        out = super().execute(op, *args)
        # A replay adds its times up by these names.
        recording.kinds[native:] = [name] * (len(recording.kinds) - native)
        for call in recording.calls[calls:]:
            call.kind = name
        return out

    def reset_totals(self) -> None:
        """Forget what was timed."""
        super().reset_totals()
        self.modules, self.steps = {}, []

    def _add_seconds(self, seconds: dict[str, float]) -> None:
        for name, taken in seconds.items():
            self.modules[name] = self.modules.get(name, 0.0) + taken
