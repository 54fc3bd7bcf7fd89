"""What a request has yielded: tokens become text as they arrive, stop strings end it, pieces can be
streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from twofold.engine.request import Request
from twofold.engine.sampler import TokenLogprobs
from twofold.models.tensors import Tokenizer
from twofold.models.tokenizer import Detokenizer


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request. text is empty without a tokenizer; times in seconds since its arrival."""

    id: str | int
    text: str
    token_ids: list[int]
    finish_reason: str
    num_prompt_tokens: int
    time_to_first_token: float
    total_time: float
    logprobs: list[TokenLogprobs | None] = field(default_factory=list)


class OutputBuilder:
    """Collects the output of one request. `text` holds what is certain: it never ends within a character, nor
    within what might become a stop string."""

    def __init__(self, request: Request, tokenizer: Tokenizer | None) -> None:
        self.request = request
        self.text = ""
        self.logprobs: list[TokenLogprobs | None] = []
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
        self._stop = request.params.stop
        if self._stop and tokenizer is None:
            raise ValueError("stop strings need a tokenizer, and this model has none; use stop_token_ids")
        self._held = ""
        self._sent = 0
        self._stopped = False
        self._met: str | None = None
        self._pooled: torch.Tensor | None = None

    def pool(self, start: int, total: torch.Tensor) -> None:
        """Take in the sum `total` [hidden] of the last hidden states of the tokens from `start` on. The first
        ones begin anew: what was computed before has been lost."""
        total = total.double()
        self._pooled = total if start == 0 or self._pooled is None else self._pooled + total

    @property
    def vector(self) -> list[float] | None:
        """The mean of the last hidden states over all tokens; None but for a pooled request that has ended
        well."""
        if self._pooled is None or self.request.finish_reason != "stop":
            return None
        found: list[float] = (self._pooled / self.request.num_context_tokens).tolist()
        return found

    def extend(self, count: int, logprobs: Sequence[TokenLogprobs | None]) -> bool:
        """Take in the request's newest `count` tokens. True where a stop string was met: the text ends before
        it."""
        request = self.request
        if request.params.logprobs is not None:
            self.logprobs += logprobs
        if self._detokenizer is None or self._stopped:
            return False
        ids = request.output_ids[-count:]
        if request.stop_token is not None and ids and ids[-1] == request.stop_token:
            ids = ids[:-1]
        return self._append(self._detokenizer.add(ids))

    def close(self) -> None:
        """The request has ended: what was held back is certain now."""
        if self._detokenizer is not None and not self._stopped:
            self._append(self._detokenizer.flush())
            if not self._stopped:
                self.text += self._held
                self._held = ""

    def take(self) -> str:
        """Text that is certain and was not taken before."""
        piece = self.text[self._sent :]
        self._sent = len(self.text)
        return piece

    @property
    def error(self) -> str | None:
        """Why the request ended by an error, where it did."""
        matcher = self.request.matcher
        return None if matcher is None else matcher.error

    @property
    def stopped_by(self) -> str | int | None:
        """The stop string or token id that ended the request, where one did."""
        return self._met if self._stopped else self.request.stop_token

    def completion(self) -> Completion:
        """The finished request."""
        r = self.request
        assert r.is_finished
        end = r.finished_time if r.finished_time is not None else r.arrival_time
        first = r.first_token_time if r.first_token_time is not None else end
        reason = r.finish_reason or "error"
        return Completion(
            r.id,
            self.text,
            list(r.output_ids),
            reason,
            r.num_prompt_tokens,
            first - r.arrival_time,
            end - r.arrival_time,
            self.logprobs,
        )

    def _append(self, piece: str) -> bool:
        if not self._stop:
            self.text += piece
            return False
        self._held += piece
        found = [(at, s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            first, self._met = min(found)
            self.text += self._held[:first]
            self._held = ""
            self._stopped = True
            return True
        keep = max(_overlap(self._held, s) for s in self._stop)
        certain = len(self._held) - keep
        self.text += self._held[:certain]
        self._held = self._held[certain:]
        return False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
