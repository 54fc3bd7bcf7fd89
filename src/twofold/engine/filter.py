"""The attention seam on prompts: a pass over the whole prompt decides which of its tokens the model goes on
with."""

from __future__ import annotations

from typing import Protocol

import torch

from twofold.devices.base import Device
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer


class PromptFilter(Protocol):
    """Shortens prompts before they are prefilled. Technique seam.

    The engine runs `select` as a step of its own on the whole prompt, then lets the request continue with the
    kept tokens, renumbered from position 0. counters: what it did so far, by name.
    """

    counters: dict[str, int]

    def kept(self, num_prompt_tokens: int) -> int:
        """How many tokens of a prompt that long stay; equal to `num_prompt_tokens` where it is left alone (no
        pass is run)."""

    def select(self, model: Transformer, device: Device, step: StepInput) -> torch.Tensor | None:
        """Execute the filter pass on one sequence (`step.spans` holds it; nothing is cached). Returns the
        kept positions, ascending, int64 [kept]; None on a modelled device."""
