"""One choice of a chat completion: from the engine's events to a message, whole or in deltas."""

from __future__ import annotations

from typing import Any

from twofold.models.token_bytes import TokenBytes
from twofold.server.messages import Chunk, Ended, TokenInfo
from twofold.server.openai.calls import CallReader, Piece
from twofold.server.openai.generation import finish_reason
from twofold.server.openai.logprobs import TokenLog, chat_logprobs
from twofold.server.openai.sse import Chunks


class ChatAnswer:
    """A choice. reads_calls: the answer may contain calls; stop_ids: tokens that may end it; logprobs: they
    are wanted."""

    def __init__(
        self, index: int, table: TokenBytes, *, reads_calls: bool, stop_ids: frozenset[int], logprobs: bool
    ) -> None:
        self._index = index
        self._table = table
        self._calls = CallReader() if reads_calls else None
        self._log = TokenLog(table, stop_ids) if logprobs else None

    # --- whole ---

    def choice(self, chunk: Chunk, ended: Ended) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""
        pieces = self._pieces(chunk.text) + self._rest()
        content = "".join(p.text for p in pieces if p.kind == "text")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls := [_whole(p, pieces) for p in pieces if p.kind == "start"]:
            message |= {"content": content or None, "tool_calls": calls}
        logprobs = None
        if self._log is not None:
            tokens = self._log.add(chunk, more=False) + self._log.end(ended)
            logprobs = chat_logprobs(tokens, self._table)
        return {
            "index": self._index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._reason(ended),
        }

    # --- streamed ---

    def begin(self, chunks: Chunks) -> bytes:
        """The first chunk, which names the role. `chunks` writes all that follow."""
        self._chunks = chunks
        self._text = chunks.writer(lambda text: self._delta({"content": text}))
        self._pending: list[TokenInfo] = []
        return chunks.choice(self._delta({"role": "assistant", "content": "", "refusal": None}))

    def add(self, chunk: Chunk) -> bytes:
        """The chunks that `chunk` leads to; may be empty."""
        if self._log is None and self._calls is None:
            return self._text(chunk.text) if chunk.text else b""
        if self._log is not None:
            self._pending += self._log.add(chunk)
        return self._written(self._pieces(chunk.text))

    def end(self, ended: Ended) -> bytes:
        """The last chunks."""
        if self._log is not None:
            self._pending += self._log.end(ended)
        written = self._written(self._rest())
        last = self._delta({}, self._taken())
        return written + self._chunks.choice({**last, "finish_reason": self._reason(ended)})

    # --- inside ---

    def _pieces(self, text: str) -> list[Piece]:
        if self._calls is None:
            return [Piece("text", text)] if text else []
        return self._calls.add(text)

    def _rest(self) -> list[Piece]:
        return [] if self._calls is None else self._calls.close()

    def _reason(self, ended: Ended) -> str:
        reason = finish_reason(ended)
        called = self._calls is not None and self._calls.num_calls > 0 and not self._calls.calling
        return "tool_calls" if reason == "stop" and called else reason

    def _written(self, pieces: list[Piece]) -> bytes:
        """A chunk for each piece; log-probabilities go with the first."""
        written = []
        for delta in map(_delta_of, pieces):
            written.append(self._chunks.choice(self._delta(delta, self._taken())))
        return b"".join(written)

    def _taken(self) -> dict[str, Any] | None:
        if not self._pending:
            return None
        taken, self._pending = chat_logprobs(self._pending, self._table), []
        return taken

    def _delta(self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _delta_of(piece: Piece) -> dict[str, Any]:
    if piece.kind == "text":
        return {"content": piece.text}
    if piece.kind == "arguments":
        return {"tool_calls": [{"index": piece.call, "function": {"arguments": piece.text}}]}
    function = {"name": piece.text, "arguments": ""}
    return {"tool_calls": [{"index": piece.call, "id": piece.id, "type": "function", "function": function}]}


def _whole(start: Piece, pieces: list[Piece]) -> dict[str, Any]:
    arguments = "".join(p.text for p in pieces if p.kind == "arguments" and p.call == start.call)
    return {"id": start.id, "type": "function", "function": {"name": start.text, "arguments": arguments}}
