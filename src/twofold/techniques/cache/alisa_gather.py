"""How the tokens that ALISA chose come together: from the device, from the host, or computed again.

Shape letters: n tokens, K KV heads, D head dimension, W numbers of an entry, H numbers of an input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.devices.base import Device
from twofold.models.context import Context
from twofold.models.rope import RotaryTables
from twofold.models.step import StepInput
from twofold.ops.base import DEVICE
from twofold.ops.movement import Copy
from twofold.techniques.cache.alisa_ops import GatherEntries
from twofold.techniques.cache.alisa_rows import Parts
from twofold.techniques.cache.alisa_schedule import Chosen
from twofold.techniques.cache.alisa_store import AlisaStore

Picks = list[torch.Tensor]
"""By sequence, the numbers of the earlier tokens that a step attends to: int64, ascending."""


class AlisaGather(AlisaStore):
    """A store whose entries, wherever they are, can be had at hand."""

    def gather(
        self,
        device: Device,
        step: StepInput,
        picks: Picks | None,
        chosen: Sequence[Chosen],
        rotary: RotaryTables | None,
        host: str,
    ) -> list[torch.Tensor]:
        """Entries that were chosen, by sequence, in the compute precision: [n, W] each; nothing where nothing
        is computed."""
        fetched, again = (sum(getattr(c, name) for c in chosen) for name in ("fetched", "recomputed"))
        total, gathered = sum(c.total for c in chosen), list[torch.Tensor]()
        come: dict[int, Parts] = {}
        made: torch.Tensor | None = None
        if fetched:
            copy = Copy(fetched * self.entry.nbytes, host, DEVICE)
            device.execute(copy, lambda: come.update(self._fetch(step, picks)))
        if again:
            made = self._compute_again(device, step, picks, again, rotary)
        if total:
            op = self._gathering(total, total - again, self.entry.nbytes, self.heads.stored_width)
            device.execute(op, lambda: gathered.extend(self._pack(step, picks, come, made)))
        return gathered

    def _gathering(self, rows: int, stored: int, stored_bytes: int, width: int) -> GatherEntries:
        flop = self.entry.widen_flop * width // self.entry.width
        return GatherEntries(rows, stored, stored_bytes, width, self.heads.act_bytes, flop)

    def _bounds(self, step: StepInput, seq: int, pick: torch.Tensor) -> tuple[int, int]:
        """How many of `pick` are deleted, and how many of them and of those on the host there are."""
        before = step.spans[seq].keys - step.spans[seq].queries
        gone, hosted = self.schedule.gone(before), self.schedule.hosted(before)
        edges = torch.tensor([gone, hosted], device=pick.device)
        first, second = torch.searchsorted(pick, edges).tolist()
        return first, second

    def _fetch(self, step: StepInput, picks: Picks | None) -> dict[int, Parts]:
        assert picks is not None
        found = {}
        for seq, pick in enumerate(picks):
            first, second = self._bounds(step, seq, pick)
            if first < second:
                found[seq] = self.on_host(step.rows[seq], pick[first:second].cpu(), pick.device)
        return found

    def _compute_again(
        self,
        device: Device,
        step: StepInput,
        picks: Picks | None,
        count: int,
        rotary: RotaryTables | None,
    ) -> torch.Tensor | None:
        """Entries [n, W] of all deleted tokens among `picks`, from their inputs."""
        assert self.projection is not None
        form = self.input
        op = self._gathering(count, count, form.nbytes, form.width)
        at = None
        if picks is not None:
            at = [pick[: self._bounds(step, seq, pick)[0]] for seq, pick in enumerate(picks)]
        x = device.execute(op, lambda: self._inputs_at(step, at))
        positions = None if at is None else torch.cat(at)
        again = StepInput([], count, 0, positions=positions)
        _, k, v = self.projection.project(x, Context(device, again, rotary))
        return None if k is None or v is None else torch.cat((k.flatten(1), v.flatten(1)), 1)

    def _inputs_at(self, step: StepInput, at: Picks | None) -> torch.Tensor:
        assert at is not None
        return torch.cat([self.inputs_of(row, one) for row, one in zip(step.rows, at, strict=True)])

    def _pack(
        self, step: StepInput, picks: Picks | None, come: dict[int, Parts], made: torch.Tensor | None
    ) -> list[torch.Tensor]:
        assert picks is not None
        packed, used = [], 0
        for seq, pick in enumerate(picks):
            first, second = self._bounds(step, seq, pick)
            pieces = []
            if first:
                assert made is not None
                pieces.append(made[used : used + first])
                used += first
            if seq in come:
                pieces.append(self.entry.widen(come[seq]))
            pieces.append(self.entry.widen(self.on_device(step.rows[seq], pick[second:])))
            packed.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces))
        return packed
