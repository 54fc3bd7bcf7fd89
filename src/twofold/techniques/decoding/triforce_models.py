"""TriForce's two draft models: a small one that sees a streaming window of the text, and the target itself
over a retrieved part of its cache. What either holds of a sequence does not grow with the text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.engine.draft_kit import DraftKit
from twofold.engine.draft_model import DraftModel, DraftPass, DraftSequence, Feed
from twofold.engine.memory import Held
from twofold.engine.model_drafter import Turn
from twofold.engine.request import Request
from twofold.models.cache import CacheSize
from twofold.ops.base import DEVICE
from twofold.ops.movement import Copy
from twofold.techniques.decoding.triforce_chunks import RetrievingCache, Wanted


class BoundedModel(DraftModel):
    """A draft model that holds at most `most_slots` entries of a sequence, in blocks of the sequence's
    own."""

    most_slots: int

    @property
    def sequence_blocks(self) -> int:
        """Blocks of one sequence."""
        return -(-self.most_slots // self.block_size)

    def held(self) -> Held:
        """The blocks of each sequence that may run."""
        return Held(self.own_weights, 0, self.sequence_blocks * self.block_bytes)

    def num_blocks(self, size: CacheSize) -> int:
        """As many for each sequence."""
        return size.max_seqs * self.sequence_blocks

    def make_room(self, sequence: DraftSequence, slots: int) -> None:
        """Get `sequence` blocks for `slots` entries, which must be there."""
        fits = self.reserve(sequence, slots)
        assert fits, f"{slots} slots of at most {self.most_slots}: every sequence has blocks of its own"


class WindowModel(BoundedModel):
    """A small model that sees the first tokens of the text and the newest ones (StreamingLLM).

    What leaves the window goes block by block. Positions count the tokens that it saw; once they reach what
    the model was made for, the window is read anew.

    start_size, recent_size: tokens that it sees of either end, at least; the first in whole blocks.
    """

    def __init__(self, small: DraftModel, start_size: int, recent_size: int, gamma: int) -> None:
        super().__init__(
            small.model,
            small.device,
            block_size=small.block_size,
            max_context=1 << 62,  # of the text: the window is what the model sees
            own_weights=small.own_weights,
        )
        self.sink_blocks = -(-start_size // self.block_size)
        self.recent_size = recent_size
        self.window = self.sink_blocks * self.block_size + recent_size
        self.most_slots = self.window + gamma + self.block_size
        self.positions = small.max_context
        if self.positions <= self.most_slots:
            raise ValueError(
                f"technique triforce: the draft model takes {self.positions} tokens, too few for a window of "
                f"{self.most_slots}: lower draft_cache_budget, or draft with another model"
            )

    def settle(self, turns: Sequence[Turn]) -> dict[str | int, DraftSequence]:
        """Make room for the guesses of `turns`, and begin the windows that have to be. Returns the sequences
        by request; what each has yet to take in is less than a window."""
        sinks = self.sink_blocks * self.block_size
        begun = []
        for turn in turns:
            request, sequence = turn.request, self.begin(turn.request)
            pending = request.num_tokens - sequence.computed
            if pending > self.recent_size or sequence.position + pending + turn.wanted > self.positions:
                self.forget(request.id)
                sequence = self.begin(request)
                if request.num_tokens > self.window:
                    self.make_room(sequence, sinks)
                    begun.append(Feed(request, sequence, sinks, 0))
        if begun:
            self.run(begun)
        for feed in begun:
            feed.sequence.computed = feed.request.num_tokens - self.recent_size
        for turn in turns:
            self._slide(turn, self.sequences[turn.request.id])
        return self.sequences

    def _slide(self, turn: Turn, sequence: DraftSequence) -> None:
        needed = turn.request.num_tokens - sequence.computed + turn.wanted
        first = (self.sink_blocks + 1) * self.block_size
        while sequence.slots + needed > self.most_slots and sequence.slots >= first:
            self.drop_block(sequence, self.sink_blocks)
        self.make_room(sequence, sequence.slots + needed)


class RetrievalSequence(DraftSequence):
    """The retrieval cache of one request: first the chunks, the best ones first, then the newest entries.

    exact: leading tokens of the text of which the entries held are the target's own; built: the length of the
    text when chunks were chosen; chunk_blocks: leading blocks that hold chunks alone.
    """

    __slots__ = ("built", "chunk_blocks", "exact")

    def __init__(self) -> None:
        super().__init__()
        self.built = self.chunk_blocks = self.exact = 0


class RetrievalModel(BoundedModel):
    """The target itself over `budget` entries of its cache: chunks of `chunk_size` chosen by the query of the
    newest token, anew every `rebuild` tokens; newer entries take the place of the worst chunks, by blocks.

    retrieved: entries copied when chunks were chosen.
    """

    def __init__(self, kit: DraftKit, budget: int, chunk_size: int, rebuild: int, gamma: int) -> None:
        everything = range(kit.target.spec.num_layers)
        part = kit.of_target(everything)
        super().__init__(
            part.model, kit.device, block_size=part.block_size, max_context=part.max_context, own_weights=0
        )
        self.budget, self.chunk_size, self.rebuild = budget, chunk_size, rebuild
        self.most_slots = budget + self.block_size + chunk_size + 2 * (gamma + 2)
        self.sources = kit.target.caches
        self.retrieved = 0
        self._kept: dict[str | int, RetrievalSequence] = {}
        self._wanted: list[Wanted] = []
        own = dict(zip(map(id, self.sources), self.model.caches, strict=True))
        self._retrieving = DraftPass(
            kit.with_caches(
                everything,
                lambda source, _: RetrievingCache(source, own[id(source)], chunk_size, self._wanted),
            )
        )

    def forget(self, request_id: str | int) -> None:
        """Free what is cached of a request."""
        super().forget(request_id)
        self._kept.pop(request_id, None)

    def is_due(self, request: Request) -> bool:
        """Whether chunks are to be chosen anew."""
        kept = self._kept.get(request.id)
        return kept is None or request.num_tokens - kept.built >= self.rebuild

    def build(self, turns: Sequence[Turn]) -> list[list[int]]:
        """Choose chunks for `turns` in a pass of their newest tokens. Returns the token that follows each of
        these (nothing on a modelled device)."""
        feeds = [Feed(t.request, self._planned(t), 1, 1) for t in turns]
        try:
            return self.run(feeds, self._retrieving)
        finally:
            self._wanted.clear()

    def _planned(self, turn: Turn) -> RetrievalSequence:
        """A new sequence for `turn`, as it is once its chunks are copied."""
        request = turn.request
        self.forget(request.id)
        sequence = RetrievalSequence()
        self.sequences[request.id] = self._kept[request.id] = sequence
        entries = request.num_tokens - 1
        assert request.num_slots == entries, "the target's cache holds every token before the newest"
        chunks = min(entries, self.budget) // self.chunk_size
        copied = chunks * self.chunk_size + entries % self.chunk_size
        self.make_room(sequence, copied + turn.wanted + 1)
        slots = places = None
        if self.device.real:
            slots = self._where(self.places(request.block_table, 0, entries))
            places = self._where(self.places(sequence.table, 0, copied))
        self._wanted.append(Wanted(entries, chunks, slots, places))
        sequence.slots = copied
        sequence.computed = sequence.position = sequence.exact = entries
        sequence.built = request.num_tokens
        sequence.chunk_blocks = chunks * self.chunk_size // self.block_size
        self.retrieved += copied
        return sequence

    def refresh(self, turns: Sequence[Turn]) -> None:
        """Put the target's own entries in the place of what was guessed, up to the newest token, and make
        room for the guesses of `turns`."""
        slots: list[int] = []
        places: list[int] = []
        total = 0
        for turn in turns:
            request, sequence = turn.request, self._kept[turn.request.id]
            sequence.advance(sequence.exact - sequence.computed)
            while sequence.slots > self.budget and sequence.chunk_blocks > 1:
                sequence.chunk_blocks -= 1
                self.drop_block(sequence, sequence.chunk_blocks)
            new = request.num_tokens - 1 - sequence.exact
            self.make_room(sequence, sequence.slots + new + turn.wanted + 1)
            if self.device.real:
                slots += self.places(request.block_table, sequence.exact, sequence.exact + new)
                places += self.places(sequence.table, sequence.slots, sequence.slots + new)
            sequence.advance(new)
            sequence.exact += new
            total += new
        if total:
            op = Copy(total * self.block_bytes // self.block_size, DEVICE, DEVICE)
            self.device.execute(op, lambda: self._copy(self._where(slots), self._where(places)))

    def _copy(self, slots: torch.Tensor, places: torch.Tensor) -> None:
        for source, own in zip(self.sources, self.model.caches, strict=True):
            own.store(places, *source.load(slots))

    def _where(self, slots: list[int]) -> torch.Tensor:
        return torch.tensor(slots, device=self.device.where)  # type: ignore[attr-defined]
