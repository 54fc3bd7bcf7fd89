"""How many tokens a text has: by the model's own tokenizer, by the server's, or estimated from its words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from twofold.loadgen.connection import Http

if TYPE_CHECKING:
    from twofold.models.tensors import Tokenizer


class Counter(Protocol):
    """Counts the tokens of texts. how: where the numbers come from, for the report."""

    @property
    def how(self) -> str:
        """Where the numbers come from."""

    async def count(self, text: str) -> int:
        """Tokens of `text`, without anything that the server puts around it."""


@dataclass(frozen=True, slots=True)
class LocalCounter:
    """The model's tokenizer, at hand here under the name `model`."""

    tokenizer: Tokenizer
    model: str

    @property
    def how(self) -> str:
        """Where the numbers come from."""
        return f"tokens as the tokenizer of {self.model} counts them"

    async def count(self, text: str) -> int:
        """Tokens of `text`."""
        return len(self.tokenizer.encode(text, special=False))


@dataclass(frozen=True, slots=True)
class ServerCounter:
    """The server's /tokenize, as vLLM and this package's own server have it."""

    http: Http
    model: str
    how: str = "tokens as the server's /tokenize counts them"

    async def count(self, text: str) -> int:
        """Tokens of `text`. ValueError where the server has no such endpoint or answers something else."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        status, answer = await self.http.whole("POST", "/tokenize", json.dumps(body).encode())
        try:
            number = json.loads(answer)["count"] if status == 200 else None
        except (ValueError, KeyError, TypeError):
            number = None
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"the server's /tokenize counts no tokens (status {status})")
        return number


@dataclass(frozen=True, slots=True)
class WordCounter:
    """Words times `tokens_per_word`, where nobody counts tokens."""

    tokens_per_word: float = 1.35

    @property
    def how(self) -> str:
        """Where the numbers come from."""
        return f"prompts estimated at {self.tokens_per_word:.2f} tokens per word; usage tells the truth"

    async def count(self, text: str) -> int:
        """Estimated tokens of `text`."""
        return round(len(text.split()) * self.tokens_per_word)
