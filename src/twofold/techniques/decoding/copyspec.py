"""CopySpec: where the newest tokens have occurred before, what followed them then is the draft.

Source: "CopySpec: Accelerating LLMs with Speculative Copy-and-Paste Without Compromising Quality",
arXiv:2502.08923; parameters and defaults as in the authors' repository, RazvanDu/CopySpec: the last `gamma`
tokens are looked up among all earlier n-grams of prompt and output, the first occurrence counts, and up to
`number_copy` tokens behind it are verified in one forward pass. Differs: an n-gram's key packs its tokens
instead of hashing them, so that two never share one; fewer tokens are copied where drafts turn out wrong
(`TextDrafter`); any number of requests at once; under sampling, a draft is accepted where it is what was
drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from twofold.engine.draft import TextDrafter
from twofold.techniques.base import Claim, Info, Technique

if TYPE_CHECKING:
    from twofold.engine.request import Request

_TOKEN_BITS = 32
_REPLAY = (
    "replay of gamma 3 and 10 copied tokens over the answers of Qwen2.5-72B-Instruct to MT-Bench (80 "
    "conversations of two turns) that RazvanDu/CopySpec publishes, in Qwen's tokens"
)


class NgramIndex:
    """The tokens of one sequence and the first place of every n-gram in it, kept up at O(1) per token.

    `tokens`: the sequence so far. An n-gram is keyed by its tokens packed into one integer, which rolls on by
    shifting the next token in and the oldest out.
    """

    __slots__ = ("_behind", "_key", "_mask", "gamma", "tokens")

    def __init__(self, gamma: int) -> None:
        self.gamma = gamma
        self.tokens: list[int] = []
        self._behind: dict[int, int] = {}
        self._key = 0
        self._mask = (1 << _TOKEN_BITS * gamma) - 1

    def extend(self, tokens: Sequence[int]) -> None:
        """Append `tokens`. The n-gram of the newest ones is looked up but not yet there to be found."""
        behind, mask, gamma = self._behind, self._mask, self.gamma
        key, length = self._key, len(self.tokens)
        for token in tokens:
            if length >= gamma:
                behind.setdefault(key, length)
            key = (key << _TOKEN_BITS | token) & mask
            length += 1
        self._key = key
        self.tokens += tokens

    def behind_match(self) -> int | None:
        """Where the text goes on behind the first earlier occurrence of the last `gamma` tokens; None without
        one."""
        return self._behind.get(self._key) if len(self.tokens) > self.gamma else None


class CopyDrafter(TextDrafter):
    """Drafts by copying; one `NgramIndex` per request, made when its first draft is asked for.

    most: tokens copied at once. counters: lookups, hits (lookups with a match), and those of `TextDrafter`.
    """

    def __init__(self, gamma: int, number_copy: int) -> None:
        super().__init__(number_copy)
        self.gamma = gamma
        self._indexes: dict[str | int, NgramIndex] = {}

    def guess(self, request: Request, limit: int) -> list[int]:
        """Up to `limit` guesses of the tokens that follow `request`'s newest one. The prompt is searched as
        it was sent, even where the model sees a part of it only."""
        assert request.prompt_ids is not None, f"request {request.id!r} has lengths only"
        index = self._indexes.get(request.id)
        if index is None:
            index = self._indexes[request.id] = NgramIndex(self.gamma)
            index.extend(request.prompt_ids)
        index.extend(request.output_ids[len(index.tokens) - request.num_prompt_tokens :])
        self.counters["lookups"] += 1
        start = index.behind_match()
        if start is None:
            return []
        self.counters["hits"] += 1
        return index.tokens[start : start + min(limit, self.most)]

    def forget(self, request: Request) -> None:
        """`request` has ended: drop its index."""
        super().forget(request)
        self._indexes.pop(request.id, None)


def _claim(key: str, figure: str, claimed: float, *, baseline: str = "no drafts", **rest: str) -> Claim:
    return Claim(
        key,
        f"tokens per second {figure}",
        (claimed, claimed),
        "x",
        baseline=f"the same model with {baseline}, one request at a time",
        model="Qwen2.5-72B/32B/7B-Instruct and Llama-3.1-70B/8B-Instruct, the best of them",
        hardware="GPUs, Hugging Face transformers 4.46 in its default precision (fp32)",
        source="arXiv:2502.08923, abstract; RazvanDu/CopySpec",
        **rest,
    )


@dataclass(frozen=True)
class CopySpec(Technique):
    """Speculation by copying from the context.

    gamma: tokens that have to match; number_copy: tokens copied from behind a match.
    """

    gamma: int = 3
    number_copy: int = 10

    info: ClassVar[Info] = Info(
        name="copyspec",
        title="CopySpec: Accelerating LLMs with Speculative Copy-and-Paste Without Compromising Quality",
        source="arXiv:2502.08923",
        summary="guesses that what followed the newest tokens earlier in the text follows again",
        seams=("decoding",),
        lossless=True,
        provides=("drafts",),
        excludes=("drafts",),
        reasons={"drafts": "one step verifies the guesses of one drafter: name one technique that drafts"},
        behaviour={
            "draft_rate": (0.129, f"{_REPLAY}: share of decode steps with a match"),
            "draft_length": (9.88, f"{_REPLAY}: tokens drafted per match"),
            "accepted_length": (2.01, f"{_REPLAY}: tokens accepted per match"),
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _claim(
            "mt-redundant",
            "on the second turn of MT-Redundant, best category",
            3.08,
            setup="copyspec:mt_redundant",
        ),
        _claim(
            "gsm8k-third-turn",
            "on the third turn of GSM-8K self-correction",
            2.66,
            setup="copyspec:gsm8k_third_turn",
        ),
        _claim(
            "cnn-dm",
            "on extractive summaries of CNN/DM",
            2.35,
            why_not="depends on what the models extract, and the authors publish no summaries to replay",
        ),
        _claim(
            "with-draft-model",
            "on the second turn of MT-Redundant, beside a draft model",
            1.49,
            baseline="a draft model",
            why_not="how often the draft model's tokens are accepted, with copies and without, is not "
            "published",
        ),
    )

    def __post_init__(self) -> None:
        for name in ("gamma", "number_copy"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"technique copyspec: {name} is {value!r}; it must be a whole number from 1 up"
                )

    def drafter(self) -> CopyDrafter:
        """A drafter of its own for every engine."""
        return CopyDrafter(self.gamma, self.number_copy)
