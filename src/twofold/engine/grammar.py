"""Grammars that outputs follow: after each token, which ones may come next. The package llguidance says so.

What is compiled for a grammar is kept for later requests. The state of a request follows its output, guesses
that are being verified included, and goes back where these turn out wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from twofold.models.tensors import Tokenizer

KEPT = 64
"""Compiled grammars that are kept: the least recently used goes first."""


class Matcher:
    """Follows one output through a grammar.

    error: why that cannot go on (the grammar proved too complex); None while it can.
    """

    def __init__(self, state: LLMatcher, end_ids: Iterable[int]) -> None:
        self.error: str | None = None
        self._state = state
        self._ends = frozenset(end_ids)
        self._taken: list[int] = []

    def allowed(self, output: Sequence[int], drafts: Sequence[int]) -> bytearray | None:
        """Which tokens may follow `output` and, after it, `drafts`: a byte for each token of the vocabulary,
        0 for those that may not.

        None where it does not matter: the drafts leave the grammar, so that they are rejected, or the output
        ends within them; and where `error` is set.
        """
        if not self._ends.isdisjoint(drafts) or not self._follow([*output, *drafts], len(output)):
            return None
        mask = bytearray(self._state.compute_logit_bias())
        return None if self._failed() else mask

    def _follow(self, tokens: list[int], certain: int) -> bool:
        """Bring the state behind `tokens`, whose first `certain` are the output. False where that fails, or
        the others leave the grammar."""
        taken = self._taken
        if taken != tokens[: len(taken)]:
            pairs = enumerate(zip(taken, tokens, strict=False))
            keep = next((i for i, (old, new) in pairs if old != new), min(len(taken), len(tokens)))
            self._state.rollback(len(taken) - keep)
            del taken[keep:]
        more = tokens[len(taken) :]
        count = self._state.try_consume_tokens(more)
        taken += more[:count]
        if self._failed():
            return False
        assert len(taken) >= certain, f"the output leaves its grammar at token {len(taken)}"
        return count == len(more)

    def _failed(self) -> bool:
        if self._state.is_error():
            told = self._state.get_error().partition("\n")[0]  # what follows is the state of the library
            self.error = f"the output cannot follow its grammar any further: {told}"
        return self.error is not None


class Grammars:
    """Compiles grammars for a tokenizer and a model with `vocab_size` logits.

    ValueError where the tokenizer does not suit it, or has no end token.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        import llguidance  # here, since few processes need it

        if not tokenizer.eos_ids:
            raise ValueError("this model has no end token: an output that follows a grammar could not end")
        self._library = llguidance
        self._ends = tokenizer.eos_ids
        try:
            self._tokens = llguidance.LLTokenizer(
                tokenizer.to_json(), n_vocab=vocab_size, eos_token=sorted(tokenizer.eos_ids)
            )
        except Exception as error:  # the library raises what its parts do
            raise ValueError(f"no output of this model can follow a grammar: {error}") from None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def matcher(self, grammar: str) -> Matcher:
        """A matcher at the start of `grammar`; ValueError where that is not a grammar."""
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._library.LLMatcher(self._tokens, grammar, log_level=0)
            if compiled.is_error():
                raise ValueError(f"the grammar is refused: {compiled.get_error()}")
            self._compiled[grammar] = compiled
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return Matcher(compiled.deep_copy(), self._ends)
