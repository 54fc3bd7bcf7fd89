"""Which precision a device computes in when it lacks the one that is asked for."""

from __future__ import annotations

from twofold.ops.base import Precision

WIDER: dict[Precision, tuple[Precision, ...]] = {
    "int1": ("int4", "int8", "fp16", "bf16", "tf32", "fp32"),
    "int4": ("int8", "fp16", "bf16", "tf32", "fp32"),
    "int8": ("fp16", "bf16", "tf32", "fp32"),
    "fp4": ("fp6", "fp8", "bf16", "fp16", "tf32", "fp32"),
    "fp6": ("fp8", "bf16", "fp16", "tf32", "fp32"),
    "fp8": ("bf16", "fp16", "tf32", "fp32"),
    "bf16": ("fp16", "tf32", "fp32"),
    "fp16": ("bf16", "tf32", "fp32"),
    "tf32": ("fp32",),
    "fp32": (),
    "fp64": (),
}
"""Precisions that stand in for one that a device lacks, narrowest first; bf16 and fp16 stand in for each
other."""

NATIVE: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
"""Precisions of activations in order of preference, where a plan leaves it open."""
