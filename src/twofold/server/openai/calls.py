"""Calls of tools read out of an answer while it comes in."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Literal

from twofold.server.openai.grammar import HEAD, MIDDLE, OPEN, TAIL

_HEAD = re.compile(re.escape(HEAD) + r'("[^"]*")' + re.escape(MIDDLE))


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer. kind: text outside of calls; start: a call begins, `text` is the function's
    name; arguments: more of the arguments of call number `call`."""

    kind: Literal["text", "start", "arguments"]
    text: str
    call: int = -1
    id: str = ""


class CallReader:
    """Cuts an answer that follows a grammar of `grammar.call_grammar` into pieces, as early as is certain.

    In valid JSON no line ends within a string, so the end of a call cannot occur within its arguments.
    """

    def __init__(self) -> None:
        self.num_calls = 0
        self._state: Literal["text", "head", "arguments", "between"] = "text"
        self._buffer = ""
        self._arguments: list[str] = []  # of the call that has begun last

    @property
    def calling(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._state in ("head", "arguments")

    def add(self, text: str) -> list[Piece]:
        """What `text` adds."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    def close(self) -> list[Piece]:
        """The answer has ended: what was held back. A call whose name had not come is dropped, and so is the
        beginning of a call's end."""
        rest, self._buffer = self._buffer, ""
        if not rest or self._state in ("head", "between"):
            return []
        if self._state == "arguments" and self._ending(rest):
            self._state = "between"
            return []
        kind: Literal["text", "arguments"] = "text" if self._state == "text" else "arguments"
        return [Piece(kind, rest, self.num_calls - 1)]

    def _ending(self, held: str) -> bool:
        """Whether `held`, with which the end of a call begins, is that end: its first character alone might
        also be the last one of the arguments."""
        return len(held) > 1 or _is_json("".join(self._arguments))

    def _advance(self, pieces: list[Piece]) -> bool:
        """Take one step through the buffer. False where more text is needed."""
        if self._state == "arguments":
            return self._until(TAIL, "arguments", "between", pieces)
        if self._state == "text":
            return self._until(OPEN, "text", "head", pieces)
        if self._state == "between":
            _, found, rest = self._buffer.partition(OPEN)
            self._state, self._buffer = ("head", rest) if found else (self._state, self._buffer)
            return bool(found)
        head = _HEAD.match(self._buffer)
        if head is None:
            return False
        self._buffer = self._buffer[head.end() :]
        pieces.append(Piece("start", json.loads(head[1]), self.num_calls, f"call_{uuid.uuid4().hex[:24]}"))
        self.num_calls += 1
        self._arguments = []
        self._state = "arguments"
        return True

    def _until(
        self,
        mark: str,
        kind: Literal["text", "arguments"],
        then: Literal["head", "between"],
        pieces: list[Piece],
    ) -> bool:
        """Give out the buffer up to `mark`, or what cannot be the mark's beginning."""
        before, found, rest = self._buffer.partition(mark)
        if not found:
            held = _beginning(before, mark)
            before, rest = before[: len(before) - held], before[len(before) - held :]
        if kind == "text":  # white space between a text and its calls belongs to neither
            bare = before.rstrip()
            before, rest = (bare, rest) if found else (bare, before[len(bare) :] + rest)
        if before:
            pieces.append(Piece(kind, before, self.num_calls - 1))
            if kind == "arguments":
                self._arguments.append(before)
        self._buffer = rest
        if found:
            self._state = then
        return bool(found)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _beginning(text: str, mark: str) -> int:
    """Length of the longest end of `text` with which `mark` begins, but is not all of it."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0
