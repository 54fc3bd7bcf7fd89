"""What a server's answer says, read while it comes in: pieces of text with their times, usage, errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

_TEXT = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
"""Fields of a chat delta that hold something generated; `role` alone is none."""


@dataclass(slots=True)
class Answer:
    """An answer of /v1/chat/completions or /v1/completions as far as it has come.

    pieces: when each piece of generated text came, in the caller's seconds; tokens as `usage` counts them
    (None: not told); done: the server said that it is complete; error: what it said instead.
    """

    pieces: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    finish: str | None = None
    done: bool = False
    error: str | None = None

    def event(self, data: bytes, now: float) -> None:
        """Take in one event of a stream, which came at `now`. ValueError where it is no JSON object."""
        if data == b"[DONE]":
            self.done = True
            return
        self._body(orjson.loads(data), now)

    def whole(self, body: bytes, now: float) -> None:
        """Take in an answer that was not streamed. ValueError where it is no JSON object."""
        self._body(orjson.loads(body), now)
        self.done = self.finish is not None

    def _body(self, body: Any, now: float) -> None:
        if not isinstance(body, dict):
            raise ValueError("not a JSON object")
        if (error := body.get("error")) is not None:
            said = error.get("message") if isinstance(error, dict) else None
            self.error = str(said or error)
            return
        choices = body.get("choices")
        if choices and isinstance(choices, list) and isinstance(choices[0], dict):
            choice = choices[0]
            if _has_text(choice):
                self.pieces.append(now)
            self.finish = choice.get("finish_reason") or self.finish
        if isinstance(usage := body.get("usage"), dict):
            self.prompt_tokens = _count(usage, "prompt_tokens", self.prompt_tokens)
            self.output_tokens = _count(usage, "completion_tokens", self.output_tokens)
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                self.cached_tokens = _count(details, "cached_tokens", self.cached_tokens)


def _has_text(choice: dict[str, Any]) -> bool:
    if choice.get("text"):
        return True
    delta = choice.get("delta") or choice.get("message")
    return isinstance(delta, dict) and any(delta.get(name) for name in _TEXT)


def _count(of: dict[str, Any], name: str, before: int | None) -> int | None:
    value = of.get(name)
    return value if isinstance(value, int) else before
