"""Gathers the entries that ALISA chose: from the device, from the host, or recomputed.

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
from twofold.techniques.cache.alisa_rows import Parts, joined
from twofold.techniques.cache.alisa_schedule import Chosen
from twofold.techniques.cache.alisa_store import AlisaStore

Picks = list[torch.Tensor]
"""By sequence, the numbers of the earlier tokens that a step attends to: int64, ascending."""


class AlisaGather(AlisaStore):
    """A store that gathers entries, wherever they are."""

    def gather(
        self,
        device: Device,
        step: StepInput,
        picks: Picks | None,
        chosen: Sequence[Chosen],
        rotary: RotaryTables | None,
        host: str,
    ) -> dict[int, torch.Tensor]:
        """Entries that were chosen, by sequence, in the compute precision: [n, W] each; none where nothing is
        computed."""
        fetched, again = (sum(getattr(c, name) for c in chosen) for name in ("fetched", "recomputed"))
        total, gathered = sum(c.total for c in chosen), dict[int, torch.Tensor]()
        come: dict[int, Parts] = {}
        made: torch.Tensor | None = None
        if fetched:
            copy = Copy(fetched * self.entry.nbytes, host, DEVICE)
            device.execute(copy, lambda: come.update(self._fetch(step, picks, chosen)))
        if again:
            made = self._compute_again(device, step, picks, chosen, rotary)
        if total:
            op = self._gathering(total, total - again, self.entry.nbytes, self.heads.stored_width)
            device.execute(op, lambda: gathered.update(self._pack(step, picks, chosen, come, made)))
        return gathered

    def _gathering(self, rows: int, stored: int, stored_bytes: int, width: int) -> GatherEntries:
        flop = self.entry.widen_flop * width // self.entry.width
        return GatherEntries(rows, stored, stored_bytes, width, self.heads.act_bytes, flop)

    def _fetch(self, step: StepInput, picks: Picks | None, chosen: Sequence[Chosen]) -> dict[int, Parts]:
        """By sequence, what comes from the host, as it is stored."""
        assert picks is not None
        found = {}
        for seq, (pick, (_, _, fetched, again)) in enumerate(zip(picks, chosen, strict=True)):
            if fetched:
                at = pick[again : again + fetched]
                found[seq] = self.on_host(step.rows[seq], at.cpu(), at.device)
        return found

    def _compute_again(
        self,
        device: Device,
        step: StepInput,
        picks: Picks | None,
        chosen: Sequence[Chosen],
        rotary: RotaryTables | None,
    ) -> torch.Tensor | None:
        """Entries [n, W] of all deleted tokens among `picks`, from their inputs."""
        assert self.projection is not None
        form, count = self.input, sum(c.recomputed for c in chosen)
        op = self._gathering(count, count, form.nbytes, form.width)
        at = None
        if picks is not None:
            at = [pick[: c.recomputed] for pick, c in zip(picks, chosen, strict=True)]
        x = device.execute(op, lambda: self._inputs_at(step, at))
        positions = None if at is None else torch.cat(at)
        again = StepInput([], count, 0, positions=positions)
        _, k, v = self.projection.project(x, Context(device, again, rotary))
        return None if k is None or v is None else torch.cat((k.flatten(1), v.flatten(1)), 1)

    def _inputs_at(self, step: StepInput, at: Picks | None) -> torch.Tensor:
        assert at is not None
        return torch.cat([self.inputs_of(row, one) for row, one in zip(step.rows, at, strict=True)])

    def _pack(
        self,
        step: StepInput,
        picks: Picks | None,
        chosen: Sequence[Chosen],
        come: dict[int, Parts],
        made: torch.Tensor | None,
    ) -> dict[int, torch.Tensor]:
        assert picks is not None
        packed, used = {}, 0
        for seq, (pick, (_, _, fetched, again)) in enumerate(zip(picks, chosen, strict=True)):
            pieces = []
            if again:
                assert made is not None
                pieces.append(made[used : used + again])
                used += again
            stored = [come[seq]] if fetched else []
            if again + fetched < len(pick):
                stored.append(self.on_device(step.rows[seq], pick[again + fetched :]))
            if stored:
                pieces.append(self.entry.widen(joined(stored)))
            if pieces:
                packed[seq] = torch.cat(pieces)
        return packed
