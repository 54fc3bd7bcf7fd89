"""Which function computes which op: a table per kernel set, filled by decorators, looked up by the op's
type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twofold.ops.base import Op

Kernel = Callable[..., Any]
KernelT = TypeVar("KernelT", bound=Kernel)

REFERENCE: dict[type[Op], Kernel] = {}
"""Plain torch kernels, one for every op: the oracle that native kernels are held against."""

CPU: dict[type[Op], Kernel] = {}
"""Native kernels, for some of the ops. They take a `kernels.cpu.context.CpuContext` before the op, and return
NotImplemented where the arguments are not theirs to compute, which types and shapes alone decide."""


def reference(op: type[Op]) -> Callable[[KernelT], KernelT]:
    """Decorator: the function is the reference kernel of `op`. It takes the op and the arguments given to
    `execute`."""

    def add(kernel: KernelT) -> KernelT:
        assert op not in REFERENCE, f"{op.__name__} already has a reference kernel"
        REFERENCE[op] = kernel
        return kernel

    return add


def cpu(op: type[Op]) -> Callable[[KernelT], KernelT]:
    """Decorator: the function is the native kernel of `op`. It takes the context, the op and the arguments
    given to `execute`."""

    def add(kernel: KernelT) -> KernelT:
        assert op not in CPU, f"{op.__name__} already has a native kernel"
        CPU[op] = kernel
        return kernel

    return add
