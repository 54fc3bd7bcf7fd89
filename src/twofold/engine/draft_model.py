"""A model that guesses: its forward passes over a cache of its own, beside the engine's.

The guesses of all requests come from one pass each time. What has been cached of a request follows from
lengths alone, so that a modelled device is charged for the very passes that a real one computes: before every
proposal all but the newest token is known to be right, and what was cached beyond that is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from twofold.devices.base import Device
from twofold.engine.memory import Held
from twofold.engine.request import Request
from twofold.engine.sampler import SampledRow
from twofold.models.cache import CacheSize
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.ops.elementwise import Sample


class DraftSequence:
    """What a draft model has cached of one request.

    computed: leading tokens of its text that went through the model; slots: cache entries held for them;
    table: the blocks these lie in; position: where the next token stands for the model.
    """

    __slots__ = ("computed", "position", "slots", "table")

    def __init__(self) -> None:
        self.computed = self.slots = self.position = 0
        self.table: list[int] = []

    def advance(self, num: int) -> None:
        """`num` more tokens went through the model (fewer, where negative)."""
        self.computed += num
        self.slots += num
        self.position += num


class Feed(NamedTuple):
    """One request's part of a pass: its next `num` tokens, guesses included, of which the last `chosen` want
    the token that follows them."""

    request: Request
    sequence: DraftSequence
    num: int
    chosen: int


class DraftPass:
    """A pass of `model` with the choice of its tokens: what a modelled device charges for as one."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def forward(self, step: StepInput, device: Device) -> None:
        """The ops of the pass."""
        self.model.forward(step, device)
        if step.num_logits:
            device.execute(Sample(step.num_logits, self.model.spec.vocab_size))


class DraftModel:
    """`model`, on `device`, with a pool of cache blocks.

    own_weights: bytes of weights that nothing else holds; max_context: tokens of text that it can take in.
    """

    def __init__(
        self, model: Transformer, device: Device, *, block_size: int, max_context: int, own_weights: int
    ) -> None:
        self.model, self.device = model, device
        self.plain = DraftPass(model)
        self.block_size, self.max_context, self.own_weights = block_size, max_context, own_weights
        self.passes = 0
        self.sequences: dict[str | int, DraftSequence] = {}
        self._free: list[int] = []

    # --- memory

    @property
    def block_bytes(self) -> int:
        """Bytes of one cache block in all layers."""
        return sum(cache.block_bytes() for cache in self.model.caches)

    def held(self) -> Held:
        """What it holds: a block for each of the engine's."""
        return Held(self.own_weights, self.block_bytes, 0)

    def num_blocks(self, size: CacheSize) -> int:
        """Blocks of its own beside an engine's cache of `size`."""
        return size.num_blocks

    def allocate(self, size: CacheSize) -> None:
        """Take memory beside an engine's cache of `size`."""
        count = self.num_blocks(size)
        self._free = list(range(count - 1, -1, -1))
        if self.device.real:
            where: torch.device = self.device.where  # type: ignore[attr-defined]
            for cache in self.model.caches:
                cache.allocate(CacheSize(count, self.block_size, size.max_seqs), where)

    @property
    def allocated(self) -> int:
        """Bytes of cache tensors that are really held."""
        return sum(cache.allocated for cache in self.model.caches)

    # --- sequences

    def begin(self, request: Request) -> DraftSequence:
        """The sequence of `request`, ready to take in its newest token: guesses of the last time that may
        have been wrong are taken back."""
        sequence = self.sequences.setdefault(request.id, DraftSequence())
        sequence.advance(min(0, request.num_tokens - 1 - sequence.computed))
        return sequence

    def reserve(self, sequence: DraftSequence, slots: int) -> bool:
        """Get `sequence` blocks for `slots` entries; False, and nothing is taken, where there are too few."""
        missing = -(-slots // self.block_size) - len(sequence.table)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            sequence.table.append(self._free.pop())
        return True

    def drop_block(self, sequence: DraftSequence, index: int) -> None:
        """Forget the entries in block number `index` of `sequence`, all of whose slots are taken."""
        assert (index + 1) * self.block_size <= sequence.slots
        self._free.append(sequence.table.pop(index))
        sequence.slots -= self.block_size

    def forget(self, request_id: str | int) -> None:
        """Free what is cached of a request."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is not None:
            self._free += sequence.table

    def keep_only(self, requests: Sequence[Request]) -> None:
        """Free what is cached of all other requests: those that lost their place in the engine begin anew."""
        wanted = {request.id for request in requests}
        for gone in [id for id in self.sequences if id not in wanted]:
            self.forget(gone)

    def places(self, table: Sequence[int], start: int, stop: int) -> list[int]:
        """Flat slots of the entries `start` … `stop` - 1 of a sequence with that table."""
        size = self.block_size
        return [table[i // size] * size + i % size for i in range(start, stop)]

    # --- passes

    def catch_up(self, feeds: Sequence[Feed], limit: int) -> list[Feed]:
        """Run the first tokens of `feeds` through the model until at most `limit` are left in all, in passes
        of at most `limit`. Returns what is left, at least the tokens that want another."""
        left = [*feeds]
        while (excess := sum(feed.num for feed in left) - limit) > 0:
            now, room = [], limit
            for i, feed in enumerate(left):
                num = min(room, excess, feed.num - feed.chosen)
                if num > 0:
                    now.append(feed._replace(num=num, chosen=0))
                    left[i] = feed._replace(num=feed.num - num)
                    room, excess = room - num, excess - num
            if not now:
                break  # as many requests as `limit`: the last pass is a little larger
            self.run(now)
        return left

    def run(self, feeds: Sequence[Feed], through: DraftPass | None = None) -> list[list[int]]:
        """One pass, of `through` where it is given. Returns, for each of `feeds`, the tokens that follow its
        last `chosen` ones, as the request's own sampling would choose them; nothing on a modelled device."""
        through = through or self.plain
        self.passes += 1
        spans = [Span(f.num, f.sequence.slots + f.num) for f in feeds]
        tokens, wanted = sum(f.num for f in feeds), sum(f.chosen for f in feeds)
        if self.device.real:
            logits = self.device.forward(through.model, self._tensors(feeds, spans, tokens, wanted))
            chosen = self._choose(feeds, logits, wanted)
        else:
            self.device.forward(through, StepInput(spans, tokens, wanted))
            chosen = []
        for feed in feeds:
            feed.sequence.advance(feed.num)
        return chosen

    def _choose(self, feeds: Sequence[Feed], logits: Any, wanted: int) -> list[list[int]]:
        if not wanted:
            return [[] for _ in feeds]
        # A draw depends on the seed and the place alone: what the target is likely to draw, this draws too.
        rows = [
            SampledRow(f.request, f.sequence.computed + f.num - f.request.num_tokens - j)
            for f in feeds
            for j in range(f.chosen - 1, -1, -1)
        ]
        tokens, _ = self.device.execute(Sample(wanted, logits.shape[-1]), logits, rows)
        out, at = [], 0
        for feed in feeds:
            out.append(tokens[at : at + feed.chosen])
            at += feed.chosen
        return out

    def _tensors(self, feeds: Sequence[Feed], spans: Sequence[Span], tokens: int, wanted: int) -> StepInput:
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        for f in feeds:
            s = f.sequence
            ids += f.request.tokens(s.computed, s.computed + f.num)
            positions += range(s.position, s.position + f.num)
            slots += self.places(s.table, s.slots, s.slots + f.num)
            rows += range(len(ids) - f.chosen, len(ids))
        where: torch.device = self.device.where  # type: ignore[attr-defined]
        return StepInput(
            spans,
            tokens,
            wanted,
            torch.tensor(ids, device=where),
            torch.tensor(positions, device=where),
            torch.tensor(slots, device=where),
            None,
            list(range(len(feeds))),
            torch.tensor(rows, device=where, dtype=torch.long),
            [0] * len(feeds),
            [f.sequence.table for f in feeds],
            self.block_size,
        )
