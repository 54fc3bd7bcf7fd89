"""Synthetic prompts of given numbers of tokens, cut out of prose, each from another place."""

from __future__ import annotations

import math
import random
from functools import cache

from twofold.loadgen.counting import Counter
from twofold.workloads.text import prose

_ROUNDS = 6
_TOKENS_PER_WORD = 1.4


class PromptMaker:
    """Texts for one load.

    around: tokens that the server adds to a text (chat template, leading tokens); they count as part of the
    prompt. shared: share of each prompt that all have in common. Texts of different seeds differ from their
    first word on, so that a server's prefix cache does not answer one load with what another left.
    """

    def __init__(self, counter: Counter, *, around: int = 0, shared: float = 0.0, seed: str = "") -> None:
        self._counter, self._around, self._shared, self._seed = counter, around, shared, seed

    async def make(self, index: int, tokens: int) -> str:
        """Prompt number `index` of `tokens` tokens, as nearly as words allow. ValueError where less than one
        token would be left of it."""
        room = tokens - self._around
        if room < 1:
            raise ValueError(
                f"a prompt of {tokens} tokens leaves no room for a text: the server adds {self._around} "
                "tokens around it; ask for longer prompts or use --endpoint completions"
            )
        common = round(self._shared * room)
        head = await self._cut("shared", common, "", 0) if common else ""
        return await self._cut(str(index), room, head, common)

    async def _cut(self, name: str, tokens: int, head: str, have: int) -> str:
        """`head`, which has `have` tokens, continued to `tokens` tokens by prose from a place of its own."""
        words = _words()
        start = random.Random(f"{self._seed}:{name}").randrange(len(words))

        def text(number: int) -> str:
            found = [words[(start + i) % len(words)] for i in range(number)]
            return " ".join([head, *found] if head else found)

        number = round((tokens - have) / _TOKENS_PER_WORD)
        best, missing = head, tokens - have
        for _ in range(_ROUNDS):
            candidate = text(number)
            counted = await self._counter.count(candidate)
            off = tokens - counted
            if 0 <= off < missing:
                best, missing = candidate, off
            per_word = max(1.0, (counted - have) / max(1, number))
            step = math.floor(off / per_word)  # zero where less than a word is missing
            if step == 0 or number + step < 1:
                break
            number += step
        return await self._filled(best, missing, tokens)

    async def _filled(self, text: str, missing: int, tokens: int) -> str:
        """`text` with the `missing` tokens that no whole word fits in."""
        if not missing:
            return text
        # A short word is a token of its own, except where every character is one.
        for pad in (" a" * missing, " a" * (missing // 2) + "." * (missing % 2)):
            filled = (text + pad).lstrip()
            if await self._counter.count(filled) == tokens:
                return filled
        return (text + " a" * missing).lstrip()


@cache
def _words() -> list[str]:
    """Plain words of the prose in their order: pieces of code and tables make other tokens than text does."""
    return [word for word in prose().split() if word.isascii() and word.strip(".,;:()\"'").isalpha()]
