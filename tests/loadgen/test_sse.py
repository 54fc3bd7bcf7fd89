"""Server-sent events, however they are cut and whatever ends their lines."""

from __future__ import annotations

import random

import pytest

from twofold.loadgen.sse import EventReader

STREAM = (
    b"\xef\xbb\xbf: a comment\n\n"
    b'data: {"a": "\xc3\xa9\xf0\x9f\x98\x80"}\n\n'
    b"event: chunk\r\nid: 7\r\ndata: two\r\ndata:  lines\r\n\r\n"
    b"retry: 10\rdata:none\r\r"
    b"data\n\n"
    b": keep-alive\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = ['{"a": "é😀"}'.encode(), b"two\n lines", b"none", b"", b"[DONE]"]


def read(pieces: list[bytes]) -> list[bytes]:
    reader = EventReader()
    found = [event for piece in pieces for event in reader.feed(piece)]
    return found + reader.close()


def test_a_stream_in_one_piece() -> None:
    assert read([STREAM]) == EVENTS


def test_a_stream_byte_by_byte() -> None:
    assert read([bytes([b]) for b in STREAM]) == EVENTS


@pytest.mark.parametrize("seed", range(50))
def test_a_stream_cut_anywhere(seed: int) -> None:
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, len(STREAM)), rng.randint(1, 20)))
    pieces = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
    assert read(pieces) == EVENTS


def test_an_event_is_given_with_its_last_byte() -> None:
    reader = EventReader()
    assert reader.feed(b"data: x\n") == []
    assert reader.feed(b"\n") == [b"x"]


def test_an_event_without_its_blank_line_is_given_at_the_end() -> None:
    assert read([b"data: a\n\ndata: [DONE]"]) == [b"a", b"[DONE]"]
    assert read([b"data: a\n\n: gone"]) == [b"a"]
