"""What an engine has done: sums since it was made, and, where asked for, every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class EngineTotals:
    """What the engine did since it was made.

    steps, seconds and joules of them (prefill_seconds: of those with prompts in them; draft_seconds: the part
    in which a draft model guessed), tokens computed and yielded; decodes: decoding turns of single requests,
    drafts: those that had guesses, and how many guesses there were and were right; drafted_by_position,
    accepted_by_position: the same by place in the draft, the first one first; peak_blocks, peak_seqs: most
    cache blocks taken and most requests running at once.
    """

    steps: int = 0
    busy_seconds: float = 0.0
    joules: float | None = 0.0
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    filtered_prompts: int = 0
    decodes: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    drafted_by_position: list[int] = field(default_factory=list)
    accepted_by_position: list[int] = field(default_factory=list)
    peak_blocks: int = 0
    peak_seqs: int = 0
    stage_seconds: list[float] = field(default_factory=list)

    def add_drafts(self, drafted: int, accepted: int) -> None:
        """Count the verification of a draft of `drafted` guesses whose first `accepted` were right."""
        self.drafts += 1
        self.drafted += drafted
        self.accepted += accepted
        if drafted > len(self.drafted_by_position):
            more = [0] * (drafted - len(self.drafted_by_position))
            self.drafted_by_position += more
            self.accepted_by_position += more
        for position in range(drafted):
            self.drafted_by_position[position] += 1
        for position in range(accepted):
            self.accepted_by_position[position] += 1


class StepRecord(NamedTuple):
    """One step as it happened: start and seconds on the clock, tokens by kind, sequences."""

    start: float
    seconds: float
    prefill_tokens: int
    decode_tokens: int
    num_seqs: int
