"""Input-guided aggressive decoding: the input, from the place where the output has got to in it, is the
draft.

Source: "Lossless Acceleration for Seq2seq Generation with Aggressive Decoding", arXiv:2205.10350; the way
back to the input as in the authors' code, microsoft/unilm (decoding/IAD): the shortest of the last one to
three tokens of the output that occurs once in the input says where. Differs: the input is a decoder's prompt,
which holds instructions as well, so that the output has to find its place in it from the first token on; up
to `draft` tokens are verified at once instead of all that is left of the input, fewer where drafts turn out
wrong (`TextDrafter`), and a draft that was right is gone on with; any number of requests at once; under
sampling, a token is accepted where it is what was drawn. The source's generalized variant needs a second
network, trained to write a whole block at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from twofold.engine.draft import TextDrafter
from twofold.techniques.base import Claim, Info, Technique

if TYPE_CHECKING:
    from twofold.engine.request import Request

_SEVERAL = -1
_RUN = (
    "a run of SmolLM2-135M-Instruct on the editing tasks of benchmarks/decoding_speedup.py (the source gives "
    "no such figures)"
)


class InputGuide:
    """Where the output of one request stands in its input, kept up at O(max_gram) per token.

    at: the input's token that is expected next; None where the output has left the input.
    """

    __slots__ = ("_behind", "_newest", "at", "max_gram", "min_gram", "source")

    def __init__(self, source: Sequence[int], min_gram: int, max_gram: int) -> None:
        self.source = source
        self.min_gram, self.max_gram = min_gram, max_gram
        self.at: int | None = None
        self._newest: tuple[int, ...] = ()
        # Behind every n-gram of the input: its place, or _SEVERAL where it occurs more than once.
        self._behind: dict[tuple[int, ...], int] = {}
        for end in range(1, len(source) + 1):
            for n in range(min_gram, min(max_gram, end) + 1):
                gram = tuple(source[end - n : end])
                self._behind[gram] = _SEVERAL if gram in self._behind else end

    def follow(self, tokens: Sequence[int]) -> None:
        """The output goes on with `tokens`."""
        for token in tokens:
            self._newest = (*self._newest, token)[-self.max_gram :]
            expected = self.at is not None and self.at < len(self.source) and self.source[self.at] == token
            self.at = self.at + 1 if expected and self.at is not None else self._found()

    def _found(self) -> int | None:
        """Behind the one place of the input that ends as the output does; None without one."""
        for n in range(self.min_gram, len(self._newest) + 1):
            place = self._behind.get(self._newest[-n:])
            if place is None:
                return None
            if place != _SEVERAL:
                return place
        return None

    def ahead(self, limit: int) -> Sequence[int]:
        """Up to `limit` tokens of the input from there."""
        return [] if self.at is None else self.source[self.at : self.at + limit]


class InputDrafter(TextDrafter):
    """Drafts the input from where the output stands in it; one `InputGuide` per request.

    counters: lookups, hits (lookups with a place in the input), and those of `TextDrafter`.
    """

    def __init__(self, draft: int, min_gram: int, max_gram: int) -> None:
        super().__init__(draft)
        self.min_gram, self.max_gram = min_gram, max_gram
        self._guides: dict[str | int, tuple[InputGuide, int]] = {}

    def guess(self, request: Request, limit: int) -> Sequence[int]:
        """Up to `limit` tokens of the prompt as it was sent."""
        assert request.prompt_ids is not None, f"request {request.id!r} has lengths only"
        guide, seen = self._guides.get(request.id, (None, 0))
        if guide is None:
            guide = InputGuide(list(request.prompt_ids), self.min_gram, self.max_gram)
        guide.follow(request.output_ids[seen:])
        self._guides[request.id] = guide, len(request.output_ids)
        found = guide.ahead(min(limit, self.most))
        self.counters["lookups"] += 1
        self.counters["hits"] += bool(found)
        return found

    def forget(self, request: Request) -> None:
        """`request` has ended: drop its guide."""
        super().forget(request)
        self._guides.pop(request.id, None)


def _claim(key: str, figure: str, claimed: tuple[float, float], why_not: str) -> Claim:
    return Claim(
        key,
        f"speed of generation in {figure}",
        claimed,
        "x",
        baseline="the same network, greedily, one token at a time and one sentence at a time",
        model="Transformer of 6 encoder and 6 decoder layers",
        hardware="NVIDIA Tesla V100",
        source="arXiv:2205.10350, abstract",
        why_not=why_not,
    )


@dataclass(frozen=True)
class AggressiveDecoding(Technique):
    """Speculation by copying the input.

    draft: tokens verified at once; min_gram, max_gram: fewest and most of the newest tokens that are looked
    for in the input after a mismatch.
    """

    draft: int = 10
    min_gram: int = 1
    max_gram: int = 3

    info: ClassVar[Info] = Info(
        name="aggressive-decoding",
        title="Lossless Acceleration for Seq2seq Generation with Aggressive Decoding",
        source="arXiv:2205.10350",
        summary="guesses that the output goes on as the input does where both were alike",
        seams=("decoding",),
        lossless=True,
        provides=("drafts",),
        excludes=("drafts",),
        reasons={"drafts": "one step verifies the guesses of one drafter: name one technique that drafts"},
        behaviour={
            "draft_rate": (0.54, f"{_RUN}: share of decode steps with a draft"),
            "draft_length": (7.53, f"{_RUN}: tokens drafted where there is one"),
            "accepted_length": (5.11, f"{_RUN}: tokens accepted of these"),
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _claim(
            "input-guided",
            "grammatical error correction and text simplification, input-guided",
            (7.0, 9.0),
            "an encoder-decoder trained on sentence pairs, whose weights and outputs are not published; the "
            "engine runs decoders alone, and how much of its input another model repeats says nothing "
            "about this one",
        ),
        _claim(
            "generalized",
            "translation and summarization, generalized",
            (3.0, 5.0),
            "drafts come from a non-autoregressive network that has to be trained; the method here is the "
            "input-guided one",
        ),
    )

    def __post_init__(self) -> None:
        for name in ("draft", "min_gram", "max_gram"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"technique aggressive-decoding: {name} is {value!r}; it must be a whole number from 1 up"
                )
        if self.max_gram < self.min_gram:
            raise ValueError(
                f"technique aggressive-decoding: max_gram={self.max_gram} is below min_gram={self.min_gram}"
            )

    def drafter(self) -> InputDrafter:
        """A drafter of its own for every engine."""
        return InputDrafter(self.draft, self.min_gram, self.max_gram)
