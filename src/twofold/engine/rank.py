"""What every rank of a deployment does when the engine runs a step: its share of the model and of the caches,
on its own device.

One device is one rank. With tensor parallelism `Leader` (in `engine.leader`) is rank 0 of several: it has the
others do each of these things before it does them itself, so that they meet in the collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from twofold.devices.base import Device
from twofold.engine.filter import PromptFilter
from twofold.engine.paging import Paging
from twofold.models.cache import CacheLayer, CacheSize
from twofold.models.cache_memory import runs
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.base import DEVICE, HOST
from twofold.ops.compaction import Compaction
from twofold.ops.movement import Copy


class Rank:
    """A model's share on one device, its caches and, for swapping, their copies in host memory.

    copier: the thread that copies beside the computation (None: copies come first). in_groups: whether
    neighbouring blocks go to host memory or back in one piece; num_pieces: that did. commits: whether any
    cache wants to know how many drafts were right. keeps_rows: whether anything is kept of a sequence
    that must be released with its row. prompt_filter: the technique that shortens prompts, where there is
    one. paging: what maps the cache's blocks, where something does.
    """

    def __init__(
        self,
        model: Transformer,
        device: Device,
        prompt_filter: PromptFilter | None = None,
        paging: Paging | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.prompt_filter = prompt_filter
        self.paging = paging
        self.caches: list[CacheLayer] = model.caches
        self.block_bytes = sum(cache.block_bytes() for cache in self.caches)
        self._committing = [c for c in self.caches if type(c).commit is not CacheLayer.commit]
        self.commits = bool(self._committing)
        self.keeps_rows = self.commits or paging is not None
        self._host: list[dict[str, torch.Tensor]] = []
        self.copier: ThreadPoolExecutor | None = None
        self._copying: list[Future[None]] = []
        self.in_groups = False
        self.num_pieces = 0

    @property
    def where(self) -> torch.device:
        """Where the tensors of a real device are."""
        found: torch.device = self.device.where  # type: ignore[attr-defined]
        return found

    def allocate(self, size: CacheSize, num_host_blocks: int) -> None:
        """Allocate the caches, and `num_host_blocks` blocks of each in host memory."""
        if self.paging is not None:
            self.paging.prepare(self.caches, size)
            self.paging.allocate(self.where)
        for cache in self.caches:
            if self.paging is None:
                cache.allocate(size, self.where)
            if num_host_blocks:
                shapes = {name: (num_host_blocks, *t.shape[1:]) for name, t in cache.tensors.items()}
                self._host.append(
                    {n: torch.empty(s, dtype=cache.tensors[n].dtype) for n, s in shapes.items()}
                )

    def forward(self, step: StepInput) -> Any:
        """Logits of `step` (see `Device.forward`)."""
        if self.paging is not None:
            self.paging.map(step, self.device)
        return self.device.forward(self.model, step)

    def select(self, step: StepInput) -> torch.Tensor | None:
        """What the prompt filter keeps of the one sequence of `step` (see `PromptFilter.select`)."""
        assert self.prompt_filter is not None
        return self.prompt_filter.select(self.model, self.device, step)

    def swap(self, pairs: Sequence[tuple[int, int]], out: bool) -> None:
        """Copy cache blocks to host memory (`out`) or back: (device block, host block)."""
        source, target = (DEVICE, HOST) if out else (HOST, DEVICE)
        if not out:
            self.hold([block for block, _ in pairs])
        count = sum(1 for _ in runs(pairs)) if self.in_groups else len(pairs)
        pieces = count * sum(cache.parts for cache in self.caches)
        self.num_pieces += pieces
        op = Copy(len(pairs) * self.block_bytes, source, target, pieces=pieces)
        if self.copier is None:
            self.device.execute(op, lambda: self._copy(list(pairs), out=out))
        else:
            copy, submit = partial(self._copy, list(pairs), out=out), self.copier.submit
            self.device.execute(op, lambda: self._copying.append(submit(copy)))

    def hold(self, blocks: Sequence[int]) -> None:
        """Copies are about to be written into `blocks`."""
        if self.paging is not None:
            self.paging.hold(blocks)

    def settle(self) -> None:
        """Wait for the copies that go on beside the computation."""
        while self._copying:
            self._copying.pop().result()

    def compact(self, compactions: Sequence[Compaction]) -> None:
        """Drop entries of sequences in every layer."""
        for stage in self.model.stages:
            for layer in self.device.each(stage):
                if layer.attention is not None:
                    cache = layer.attention.cache
                    assert cache.retainer is not None
                    self.device.execute(cache.retainer.compact_op(cache, compactions), cache, compactions)

    def commit(self, row: int, kept: int, table: Sequence[int]) -> None:
        """The sequence in `row` now ends at `kept` entries (see `CacheLayer.commit`)."""
        for cache in self._committing:
            cache.commit(row, kept, table)

    def held(self, row: int) -> Sequence[int]:
        """The blocks that are mapped for the sequence in `row`."""
        return () if self.paging is None else self.paging.held(row)

    def release(self, row: int, free: Sequence[int] = ()) -> None:
        """The sequence in `row` is gone; of the blocks that are mapped for it, `free` belong to nobody."""
        if self.paging is not None:
            self.paging.release(row, free)
        for cache in self._committing:
            cache.release(row)

    def close(self) -> None:
        """Let go of what outlives the engine: here nothing."""

    def _copy(self, pairs: list[tuple[int, int]], *, out: bool) -> None:
        for part in [pairs] if self.in_groups else [[pair] for pair in pairs]:
            for cache, host in zip(self.caches, self._host, strict=True):
                cache.copy_blocks(part, host, out=out)
