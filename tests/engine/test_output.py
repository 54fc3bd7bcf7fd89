"""Text as it comes out: streaming, stop strings, cancelling in the middle."""

from __future__ import annotations

import pytest
from tests.tiny import VOCAB, tiny_engine

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams


class Letters:
    """A tokenizer in which token 3 + n is the n-th of 157 characters, so that any output is text."""

    eos_ids = frozenset({2})
    bos_id = None
    letters = "abcdefghijklmnopqrstuvwxyz" + "".join(chr(0x100 + i) for i in range(VOCAB - 29))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [3 + self.letters.index(c) for c in text]

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return "".join(self.letters[i - 3] for i in ids if i >= 3)

    def chat(self, messages: list[dict[str, str]], *, generate: bool = True) -> str:
        raise ValueError("no template")


@pytest.fixture
def engine() -> Engine:
    made = tiny_engine()
    made.tokenizer = Letters()
    return made


FREE = SamplingParams(max_tokens=30, ignore_eos=True)


def test_streamed_pieces_join_to_the_whole(engine: Engine) -> None:
    whole = engine.generate(["hello"], FREE)[0]
    pieces = list(engine.stream("hello", FREE))
    assert "".join(pieces) == whole.text == Letters().decode(whole.token_ids)
    assert len(pieces) > 5


def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    whole = engine.generate(["hello"], FREE)[0].text
    stop = whole[7:10]
    done = engine.generate(["hello"], SamplingParams(max_tokens=30, ignore_eos=True, stop=(stop,)))[0]
    assert done.text == whole[: whole.index(stop)]
    assert done.finish_reason == "stop"
    pieces = list(engine.stream("hello", SamplingParams(max_tokens=30, ignore_eos=True, stop=(stop,))))
    assert "".join(pieces) == done.text
    assert engine.scheduler.blocks.num_used == 0


def test_what_only_begins_like_a_stop_string_is_kept(engine: Engine) -> None:
    whole = engine.generate(["hello"], FREE)[0].text
    absent = whole[-3:] + "\x00"
    done = engine.generate(["hello"], SamplingParams(max_tokens=30, ignore_eos=True, stop=(absent,)))[0]
    assert done.text == whole
    assert done.finish_reason == "length"


def test_closing_a_stream_cancels_the_request(engine: Engine) -> None:
    stream = engine.stream("hello", FREE)
    next(stream)
    assert engine.scheduler.blocks.num_used > 0
    stream.close()
    assert engine.scheduler.blocks.num_used == 0
    assert not engine.has_work


def test_the_end_token_stops_and_is_not_text(engine: Engine) -> None:
    whole = engine.generate(["hello"], FREE)[0]
    end = whole.token_ids[6]
    first = whole.token_ids.index(end)
    done = engine.generate(["hello"], SamplingParams(max_tokens=30, stop_token_ids=frozenset({end})))[0]
    assert done.token_ids == whole.token_ids[: first + 1]
    assert done.text == Letters().decode(whole.token_ids[:first])
    assert done.finish_reason == "stop"


def test_stop_strings_need_a_tokenizer() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="stop strings need a tokenizer"):
        engine.add([5, 6], SamplingParams(stop=("x",)))
    assert not engine.has_work
