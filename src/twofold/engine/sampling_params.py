"""SamplingParams: how the tokens of a request are chosen, and when it stops."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen, and when to stop.

    max_tokens: most tokens to generate; temperature: 0 is greedy; top_k: 0 is off; top_p and min_p: 1 and 0
    are off; repetition_penalty: divides (multiplies) positive (negative) logits of tokens seen in context or
    output, 1 is off; presence_penalty, frequency_penalty: subtracted once, or once per occurrence in the
    output; seed: of this request's own generator (None = derived by the engine); logprobs: how many top
    log-probabilities to return per token (None = none at all, 0 = the chosen one only); min_tokens: stop
    tokens do not count before; stop: strings that end the output; stop_token_ids: tokens that do, besides the
    model's own end tokens unless ignore_eos.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
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
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            require(number and math.isfinite(value), name, "a finite number")
        require(self.max_tokens >= 1, "max_tokens", "at least 1")
        require(self.temperature >= 0, "temperature", "0 (greedy) or more")
        require(self.top_k >= 0, "top_k", "0 (off) or more")
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (off)")
        require(0 <= self.min_p <= 1, "min_p", "from 0 (off) to 1")
        require(self.repetition_penalty > 0, "repetition_penalty", "above 0 (1 is off)")
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

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0

    @property
    def penalized(self) -> bool:
        """Whether any penalty is on, so that the sampler needs token counts."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
