"""One choice of a plain completion: from the engine's events to text, whole or in chunks."""

from __future__ import annotations

from typing import Any

from twofold.models.token_bytes import TokenBytes
from twofold.server.messages import Chunk, Ended, TokenInfo
from twofold.server.openai.generation import finish_reason
from twofold.server.openai.logprobs import TextLogprobs, TokenLog
from twofold.server.openai.sse import Chunks


class CompletionAnswer:
    """A choice. echo: the text that goes before the answer; stop_ids: tokens that may end it; logprobs: how
    many are wanted beside each token, None for none at all."""

    def __init__(
        self, index: int, table: TokenBytes, *, echo: str, stop_ids: frozenset[int], logprobs: int | None
    ) -> None:
        self._index = index
        self._echo = echo
        self._log = None if logprobs is None else TokenLog(table, stop_ids)
        self._shown = TextLogprobs(table, bool(logprobs))
        self._length = 0

    def choice(self, chunk: Chunk, ended: Ended) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""
        tokens = [] if self._log is None else self._log.add(chunk, more=False) + self._log.end(ended)
        return self._choice(chunk.text, tokens, ended)

    def begin(self, chunks: Chunks) -> bytes:
        """The prompt, where it is echoed. `chunks` writes all that follow."""
        self._chunks = chunks
        self._text = chunks.writer(lambda text: self._fields(text, None, None))
        return self._text(self._echo) if self._echo else b""

    def add(self, chunk: Chunk) -> bytes:
        """The chunk that `chunk` leads to; may be empty."""
        if self._log is None:
            return self._text(chunk.text) if chunk.text else b""
        tokens = self._log.add(chunk)
        if not chunk.text:
            return b""
        return self._chunks.choice(self._fields(chunk.text, self._logprobs(chunk.text, tokens), None))

    def end(self, ended: Ended) -> bytes:
        """The last chunk."""
        self._echo = ""
        return self._chunks.choice(self._choice("", [] if self._log is None else self._log.end(ended), ended))

    def _choice(self, text: str, tokens: list[TokenInfo], ended: Ended) -> dict[str, Any]:
        return self._fields(self._echo + text, self._logprobs(text, tokens), finish_reason(ended))

    def _logprobs(self, text: str, tokens: list[TokenInfo]) -> dict[str, Any] | None:
        self._length += len(text)
        return None if self._log is None else self._shown.of(tokens, self._length)

    def _fields(self, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": reason}
