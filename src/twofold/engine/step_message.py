"""A step as rank 0 sends it to the others: what its constructor takes, tensors as arrays, which pickle in
microseconds."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from twofold.models.step import StepInput

_FIELDS = [name for name in inspect.signature(StepInput).parameters if name != "tables"]
"""Flat tables follow from the block tables, which the engine's steps have."""


def pack(step: StepInput) -> dict[str, Any]:
    """`step` without anything that lives on its device."""
    values = {name: getattr(step, name) for name in _FIELDS}
    return {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in values.items()}


def unpack(message: dict[str, Any], where: torch.device) -> StepInput:
    """The step of a message, its tensors on `where`."""
    tensors = {k: torch.from_numpy(v).to(where) for k, v in message.items() if hasattr(v, "dtype")}
    return StepInput(**{**message, **tensors})
