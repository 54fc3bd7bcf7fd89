"""Texts of given lengths, whoever counts the tokens."""

from __future__ import annotations

import asyncio
import re

import pytest

from twofold.loadgen.counting import Counter, WordCounter
from twofold.loadgen.prompts import PromptMaker


class Letters:
    """A tokenizer that cuts words after every third letter, as subwords do."""

    how = "thirds"

    def __init__(self) -> None:
        self.asked = 0

    async def count(self, text: str) -> int:
        self.asked += 1
        return sum(-(-len(word) // 3) for word in text.split())


def make(*wanted: int, counter: Counter | None = None, **rest: object) -> list[str]:
    maker = PromptMaker(counter or Letters(), **rest)  # type: ignore[arg-type]

    async def main() -> list[str]:
        return [await maker.make(i, n) for i, n in enumerate(wanted)]

    return asyncio.run(main())


def tokens(text: str) -> int:
    return asyncio.run(Letters().count(text))


def test_prompts_have_their_lengths() -> None:
    wanted = [1, 2, 3, 10, 57, 256, 1000]
    assert [tokens(text) for text in make(*wanted)] == wanted


class Characters:
    """A tokenizer of characters."""

    how = "characters"

    async def count(self, text: str) -> int:
        return len(text)


def test_prompts_of_a_model_that_reads_characters() -> None:
    wanted = [10, 57, 58, 59, 60, 300]
    assert [len(text) for text in make(*wanted, counter=Characters())] == wanted


def test_few_counts_are_needed() -> None:
    counter = Letters()
    make(*[500] * 20, counter=counter)
    assert counter.asked <= 20 * 6


def test_what_the_server_adds_counts() -> None:
    (text,) = make(100, around=30)
    assert tokens(text) == 70
    with pytest.raises(ValueError, match="the server adds 30 tokens"):
        make(30, around=30)


def test_texts_are_prose_and_differ_from_their_first_words() -> None:
    texts = make(*[60] * 20, seed="a")
    assert len({text[:12] for text in texts}) > 15
    assert all(re.fullmatch(r"[\w .,;:()\"']+", text) for text in texts)
    assert make(60, seed="a") == texts[:1]
    assert make(60, seed="b") != texts[:1]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_share_of_each_prompt_is_the_same(share: float) -> None:
    texts = make(*[200] * 5, shared=share)
    assert [tokens(text) for text in texts] == [200] * 5
    common = 0
    while len({text[: common + 1] for text in texts}) == 1 and common < len(texts[0]):
        common += 1
    assert tokens(texts[0][:common].rsplit(" ", 1)[0]) == pytest.approx(200 * share, abs=3)


def test_words_stand_in_where_nobody_counts() -> None:
    (text,) = make(270, counter=WordCounter(1.35))
    assert len(text.split()) == pytest.approx(200, abs=2)
