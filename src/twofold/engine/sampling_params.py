"""SamplingParams: how the tokens of a request are chosen, and when it stops."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

COLDEST = 1e-20
"""Temperatures below this choose as 0 does: logits divided by still smaller ones leave float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen, and when to stop.

    max_tokens: most tokens to generate; temperature: 0 is greedy; top_k: 0 is off; top_p and min_p: 1 and 0
    are off; repetition_penalty: divides (multiplies) positive (negative) logits of tokens seen in context or
    output, 1 is off; presence_penalty, frequency_penalty: subtracted once, or once per occurrence in the
    output; logit_bias: pairs of a token id and what is added to its logit, from -100 to 100; grammar: what
    the output follows to its end, as the package llguidance takes it; seed: of this request's own generator
    (None = derived by the engine); logprobs: how many top log-probabilities to return per token (None = none
    at all, 0 = the chosen one only): the model's own, whatever penalties, bias, grammar, temperature or
    truncation make of them; min_tokens: stop tokens do not count before; stop: strings that end the output;
    stop_token_ids: tokens that do, besides the model's own end tokens unless ignore_eos.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str | None = None
    seed: int | None = None
    logprobs: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

        for name in ("max_tokens", "top_k", "min_tokens"):
            value = getattr(self, name)
            require(isinstance(value, int) and not isinstance(value, bool), name, "a whole number")
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        ):
            require(_is_number(getattr(self, name)), name, "a finite number")
        require(self.max_tokens >= 1, "max_tokens", "at least 1")
        require(self.temperature >= 0, "temperature", "0 (greedy) or more")
        require(self.top_k >= 0, "top_k", "0 (off) or more")
        require(1e-9 <= self.top_p <= 1, "top_p", "above 0 (at least 1e-9) and at most 1 (off)")
        require(0 <= self.min_p <= 1, "min_p", "from 0 (off) to 1")
        require(0.01 <= self.repetition_penalty <= 100, "repetition_penalty", "from 0.01 to 100 (1 is off)")
        require(-2 <= self.presence_penalty <= 2, "presence_penalty", "from -2 to 2")
        require(-2 <= self.frequency_penalty <= 2, "frequency_penalty", "from -2 to 2")
        require(self.seed is None or isinstance(self.seed, int), "seed", "a whole number or None")
        require(self.logprobs is None or 0 <= self.logprobs <= 20, "logprobs", "from 0 to 20, or None")
        require(
            0 <= self.min_tokens <= self.max_tokens, "min_tokens", f"from 0 to max_tokens ({self.max_tokens})"
        )
        if isinstance(self.stop, str):
            raise ValueError(f"stop is the string {self.stop!r}; give a tuple of strings: ({self.stop!r},)")
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", frozenset(self.stop_token_ids))
        require(all(isinstance(s, str) and s for s in self.stop), "stop", "strings that are not empty")
        object.__setattr__(self, "logit_bias", _bias(self.logit_bias))
        require(self.grammar is None or isinstance(self.grammar, str), "grammar", "a string or None")
        if self.grammar is not None and (self.ignore_eos or self.min_tokens):
            other = "ignore_eos" if self.ignore_eos else "min_tokens"
            raise ValueError(f"the grammar says where the output ends: drop {other}, or the grammar")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < COLDEST

    @property
    def adjusted(self) -> bool:
        """Whether anything changes the logits before a token is chosen from them."""
        return self.penalized or self.grammar is not None or bool(self.logit_bias)

    @property
    def penalized(self) -> bool:
        """Whether any penalty is on, so that the sampler needs token counts."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bias(pairs: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """`pairs` as a tuple; ValueError where one is not a token id and a number, or an id comes twice."""
    found = tuple((token, bias) for token, bias in pairs)
    for token, bias in found:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise ValueError(f"logit_bias has the token id {token!r}; it must be a whole number from 0 up")
        if not _is_number(bias) or not -100 <= bias <= 100:
            raise ValueError(f"logit_bias of token {token} is {bias!r}; it must be a number from -100 to 100")
    if len({token for token, _ in found}) < len(found):
        raise ValueError("logit_bias names a token id twice; give each once")
    return found
