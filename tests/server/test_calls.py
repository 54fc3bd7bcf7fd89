"""Calls of tools, read out of an answer however it is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from twofold.server.openai.calls import CallReader, Piece


def call(name: str, arguments: Any) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def read(text: str, cut: int) -> tuple[str, list[tuple[str, str]], list[Piece], CallReader]:
    """(text outside of calls, (name, arguments) of each, all pieces, the reader)."""
    reader = CallReader()
    pieces = [p for i in range(0, len(text), cut) for p in reader.add(text[i : i + cut])]
    pieces += reader.close()
    calls = [
        (p.text, "".join(a.text for a in pieces if a.kind == "arguments" and a.call == p.call))
        for p in pieces
        if p.kind == "start"
    ]
    return "".join(p.text for p in pieces if p.kind == "text"), calls, pieces, reader


@pytest.mark.parametrize("cut", [1, 2, 5, 7, 1000])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"a": {"b": [1, {}]}}, {"text": "}\n</tool_call>\n<tool_call>"}, {"text": 'quotes " and \\ and é'}],
)
def test_pieces_join_to_what_was_written(cut: int, arguments: Any) -> None:
    text, calls, pieces, reader = read(f"Well: \n{call('f', arguments)}\n{call('g-2', {})}", cut)
    assert text == "Well:"
    assert calls == [("f", json.dumps(arguments)), ("g-2", "{}")]
    assert len({p.id for p in pieces if p.kind == "start"}) == 2
    assert not reader.calling


@pytest.mark.parametrize("cut", [1, 4, 1000])
@pytest.mark.parametrize("text", ["", "no call", "a < b <tool", "ends in space \n", "<tool_cal l>"])
def test_text_without_calls_stays_as_it_is(cut: int, text: str) -> None:
    assert read(text, cut)[:2] == (text, [])


def test_arguments_come_as_soon_as_they_are_certain() -> None:
    reader = CallReader()
    reader.add('<tool_call>\n{"name": "f", "arguments": ')
    assert [p.text for p in reader.add('{"a": "xy')] == ['{"a": "xy']
    assert [p.text for p in reader.add('"}')] == ['"']  # the brace may begin the end of the call
    assert [p.text for p in reader.add("}")] == ["}"]
    assert reader.calling
    assert reader.add("\n</tool_call>") == []
    assert not reader.calling


@pytest.mark.parametrize("cut", [1, 6, 1000])
def test_a_call_that_was_cut_off_keeps_its_arguments(cut: int) -> None:
    text, calls, _, reader = read(call("f", {"a": 1})[:-14], cut)
    assert (text, calls) == ("", [("f", '{"a": 1}')])
    assert reader.calling
    assert read('x<tool_call>\n{"na', cut)[:2] == ("x", [])


@pytest.mark.parametrize("cut", [1, 6, 1000])
@pytest.mark.parametrize("missing", range(1, 14))
def test_a_call_whose_end_was_cut_off_has_its_arguments_alone(cut: int, missing: int) -> None:
    _, calls, _, reader = read(call("f", {"a": {"b": 1}})[:-missing], cut)
    assert calls == [("f", '{"a": {"b": 1}}')]
    assert not reader.calling
