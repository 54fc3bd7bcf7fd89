"""Passkey retrieval: a number hidden in filler text, asked for at the end. Score: share of numbers that come
back."""

from __future__ import annotations

import random
from dataclasses import dataclass

from twofold.models.tensors import Tokenizer

_FILLER = (
    "The river runs slowly past the old mill.",
    "In the morning the market opens and people buy bread.",
    "Birds cross the valley before the winter comes.",
    "A long road leads over the hills to the next town.",
    "The teacher reads a story while the rain falls outside.",
)
_KEY = "The secret number is {key}. Remember it: {key} is the secret number."
_TASK = (
    "Somewhere in the following text there is a secret number. Find it.\n\n{text}\n\n"
    "What is the secret number?"
)
_ANSWER = "The secret number is"
ANSWER_TOKENS = 10


@dataclass(frozen=True, slots=True)
class Passkey:
    """One prompt (token ids) with the number that is hidden in it."""

    length: int
    ids: list[int]
    key: str

    def found(self, answer: str) -> bool:
        """Whether the answer gives the number first of all numbers."""
        digits = "".join(c if c.isdigit() else " " for c in answer).split()
        return bool(digits) and digits[0] == self.key


def make_passkeys(tokenizer: Tokenizer, length: int, trials: int, seed: int = 0) -> list[Passkey]:
    """`trials` prompts of about `length` tokens (never more), the number at evenly spread depths.

    ValueError where `length` is too short for the question.
    """
    out = []
    for trial in range(trials):
        rng = random.Random(f"{seed}:{length}:{trial}")
        key = str(rng.randrange(10_000, 99_999))
        depth = (trial + 0.5) / trials
        count = 0
        ids: list[int] = []
        while True:
            longer = _prompt(tokenizer, key, depth, count)
            if len(longer) > length:
                break
            ids, count = longer, count + 1
        if not ids:
            raise ValueError(f"a passkey prompt takes more than {length} tokens; ask for longer ones")
        out.append(Passkey(length, ids, key))
    return out


def _prompt(tokenizer: Tokenizer, key: str, depth: float, count: int) -> list[int]:
    sentences = [_FILLER[i % len(_FILLER)] for i in range(count)]
    sentences.insert(round(depth * count), _KEY.format(key=key))
    task = _TASK.format(text=" ".join(sentences))
    try:
        text = tokenizer.chat([{"role": "user", "content": task}])
    except ValueError:  # no chat template: plain completion
        text = task + "\n"
    return tokenizer.encode(text + _ANSWER)
