"""Log-probabilities as chat and plain completions show them, with the text and bytes of each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twofold.models.token_bytes import TokenBytes
from twofold.server.messages import Chunk, Ended, TokenInfo

_LOWEST = -9999.0  # JSON has no infinity


class TokenLog:
    """Gives out the tokens of an answer along with the text that they spell.

    Tokens whose text is held back are held back with it, and those that only ended the answer (an end token,
    a stop string) are never given out, for their text is not in the answer either. stop_ids: tokens that may
    end it.
    """

    def __init__(self, table: TokenBytes, stop_ids: frozenset[int]) -> None:
        self._table, self._stop_ids = table, stop_ids
        self._held: list[TokenInfo] = []
        self._spelled = self._certain = 0  # bytes of the tokens given out, and of the text so far

    def add(self, chunk: Chunk, *, more: bool = True) -> list[TokenInfo]:
        """The tokens that are certain with `chunk`; none yet where nothing `more` comes before the end."""
        self._held += chunk.tokens
        self._certain += len(chunk.text.encode())
        if not chunk.text or not more:
            return []
        keep = len(self._held) - (bool(self._held) and self._held[-1].id in self._stop_ids)
        return self._give(self._held[:keep])

    def end(self, ended: Ended) -> list[TokenInfo]:
        """What was held back and is part of the answer."""
        if isinstance(ended.stop, int) and self._held and self._held[-1].id == ended.stop:
            self._held.pop()
        if not isinstance(ended.stop, str):
            return self._give(self._held)
        given: list[TokenInfo] = []
        while len(given) < len(self._held) and self._spelled < self._certain:
            given.append(self._held[len(given)])
            self._spelled += len(self._table[given[-1].id])
        self._held = []
        return given

    def _give(self, tokens: Sequence[TokenInfo]) -> list[TokenInfo]:
        self._held = self._held[len(tokens) :]
        self._spelled += sum(len(self._table[token.id]) for token in tokens)
        return list(tokens)


def token_text(spelled: bytes) -> str:
    """A token's text; one that is part of a character is shown by its bytes, as \\xe2\\x82."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in spelled)


def chat_logprobs(tokens: Sequence[TokenInfo], table: TokenBytes) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""

    def entry(id: int, logprob: float) -> dict[str, Any]:
        spelled = table[id]
        return {"token": token_text(spelled), "logprob": max(logprob, _LOWEST), "bytes": list(spelled)}

    return {
        "content": [
            {**entry(t.id, t.logprob), "top_logprobs": [entry(id, value) for id, value in t.top]}
            for t in tokens
        ],
        "refusal": None,
    }


class TextLogprobs:
    """The `logprobs` of a plain completion, whose offsets count characters of the text returned."""

    def __init__(self, table: TokenBytes, top: bool) -> None:
        self._table, self._top = table, top
        self._offset = 0

    def of(self, tokens: Sequence[TokenInfo], end: int) -> dict[str, Any]:
        """Of the next tokens, which end at character `end` of the text."""
        offsets = []
        for token in tokens:
            offsets.append(min(self._offset, end))
            spelled = self._table[token.id].decode(errors="ignore")
            self._offset = min(self._offset + len(spelled), end)
        self._offset = end
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [max(token.logprob, _LOWEST) for token in tokens],
            "top_logprobs": [self._likeliest(token) for token in tokens] if self._top else None,
            "text_offset": offsets,
        }

    def _likeliest(self, token: TokenInfo) -> dict[str, float]:
        """The likeliest tokens by text; the chosen one is always among them."""
        pairs = [*token.top, (token.id, token.logprob)]
        return {self._name(id): max(value, _LOWEST) for id, value in pairs}

    def _name(self, id: int) -> str:
        spelled = self._table[id]
        text = token_text(spelled)
        return text if text.encode() == spelled else f"bytes:{text}"
