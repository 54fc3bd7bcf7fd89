"""Control tokens in what users write: they stay text, so that no message can end its turn or begin another.

A chat template writes control tokens (`<|im_end|>`) as text, which the tokenizer parses. A user's message
that spells one would be parsed just the same. So each control token within a message is replaced by a
character of its own that nobody uses, before the template is applied; afterwards the text is cut at the
control tokens that the template wrote, and what lies between, with the users' ones put back, is encoded as
plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tokenizers import AddedToken

_FIRST, _LAST = 0xF0000, 0x10FFFD  # Unicode's planes for private use


class ControlTokens:
    """The control tokens of a vocabulary: id -> token, as the library `tokenizers` gives its added tokens."""

    def __init__(self, added: Mapping[int, AddedToken]) -> None:
        tokens = [(number, token) for number, token in added.items() if token.special and token.content]
        # Where several fit at one place, the longest is taken, as the library does.
        tokens.sort(key=lambda item: -len(item[1].content))
        self._ids = [number for number, _ in tokens]
        self._written = _any_of(re.escape(token.content) for _, token in tokens)
        self._parsed = _any_of(f"({_with_space(token)})" for _, token in tokens)

    def spelled_in(self, value: Any) -> bool:
        """Whether any string within `value` (a string, list or dict) spells a control token."""
        return any(self._written.search(text) for text in _strings(value))

    def hide(self, value: Any) -> tuple[Any, dict[str, str]]:
        """`value` with every control token in its strings replaced by one private character, and what each
        stands for. Raises ValueError where the strings use so many private characters that none is left."""
        taken = {c for text in _strings(value) for c in text if ord(c) >= _FIRST}
        free = (c for c in map(chr, range(_FIRST, _LAST + 1)) if c not in taken and ord(c) & 0xFFFE != 0xFFFE)
        stands_for: dict[str, str] = {}
        chosen: dict[str, str] = {}

        def replace(match: re.Match[str]) -> str:
            token = match[0]
            if token not in chosen:
                private = next(free, None)
                if private is None:
                    raise ValueError("the messages use every character for private use; leave one out")
                chosen[token] = private
                stands_for[private] = token
            return chosen[token]

        return _map_strings(value, lambda text: self._written.sub(replace, text)), stands_for

    def cut(self, text: str) -> Iterator[str | int]:
        """`text` in order: the ids of its control tokens, and the plain text between them."""
        at = 0
        for match in self._parsed.finditer(text):
            if match.start() > at:
                yield text[at : match.start()]
            assert match.lastindex is not None
            yield self._ids[match.lastindex - 1]
            at = match.end()
        if at < len(text):
            yield text[at:]


def _with_space(token: AddedToken) -> str:
    """Some tokens swallow the white space beside them."""
    space = r"\s*"
    return (space if token.lstrip else "") + re.escape(token.content) + (space if token.rstrip else "")


def _any_of(patterns: Iterator[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or r"(?!)")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(key, change): _map_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(inner, change) for inner in value]
    return value
