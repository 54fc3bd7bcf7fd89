"""What every rank of a deployment does when the engine runs a step: its share of the model and of the caches,
on its own device.

One device is one rank. With tensor parallelism `Leader` (in `engine.leader`) is rank 0 of several: it has the
others do each of these things before it does them itself, so that they meet in the collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from twofold.devices.base import Device
from twofold.engine.filter import PromptFilter
from twofold.models.cache import CacheLayer, CacheSize
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.base import DEVICE, HOST
from twofold.ops.movement import Copy


class Rank:
    """A model's share on one device, its caches and, for swapping, their copies in host memory.

    commits: whether any cache wants to know how many drafts were right. prompt_filter: the technique that
    shortens prompts, where there is one.
    """

    def __init__(self, model: Transformer, device: Device, prompt_filter: PromptFilter | None = None) -> None:
        self.model = model
        self.device = device
        self.prompt_filter = prompt_filter
        self.caches: list[CacheLayer] = model.caches
        self.block_bytes = sum(cache.block_bytes() for cache in self.caches)
        self._committing = [c for c in self.caches if type(c).commit is not CacheLayer.commit]
        self.commits = bool(self._committing)
        self._host: list[dict[str, torch.Tensor]] = []

    @property
    def where(self) -> torch.device:
        """Where the tensors of a real device are."""
        found: torch.device = self.device.where  # type: ignore[attr-defined]
        return found

    def allocate(self, size: CacheSize, num_host_blocks: int) -> None:
        """Allocate the caches, and `num_host_blocks` blocks of each in host memory."""
        for cache in self.caches:
            cache.allocate(size, self.where)
            if num_host_blocks:
                shapes = {name: (num_host_blocks, *t.shape[1:]) for name, t in cache.tensors.items()}
                self._host.append(
                    {n: torch.empty(s, dtype=cache.tensors[n].dtype) for n, s in shapes.items()}
                )

    def forward(self, step: StepInput) -> Any:
        """Logits of `step` (see `Device.forward`)."""
        return self.device.forward(self.model, step)

    def select(self, step: StepInput) -> torch.Tensor | None:
        """What the prompt filter keeps of the one sequence of `step` (see `PromptFilter.select`)."""
        assert self.prompt_filter is not None
        return self.prompt_filter.select(self.model, self.device, step)

    def swap(self, pairs: Sequence[tuple[int, int]], out: bool) -> None:
        """Copy cache blocks to host memory (`out`) or back: (device block, host block)."""
        source, target = (DEVICE, HOST) if out else (HOST, DEVICE)
        op = Copy(len(pairs) * self.block_bytes, source, target)
        self.device.execute(op, lambda: self._copy(list(pairs), out=out))

    def commit(self, row: int, kept: int, table: Sequence[int]) -> None:
        """The sequence in `row` now ends at `kept` entries (see `CacheLayer.commit`)."""
        for cache in self._committing:
            cache.commit(row, kept, table)

    def release(self, row: int) -> None:
        """The sequence in `row` is gone."""
        for cache in self._committing:
            cache.release(row)

    def close(self) -> None:
        """Let go of what outlives the engine: here nothing."""

    def _copy(self, pairs: list[tuple[int, int]], *, out: bool) -> None:
        for cache, host in zip(self.caches, self._host, strict=True):
            cache.copy_blocks(pairs, host, out=out)
