"""How many tokens a prompt or an answer has: one number for all, or a distribution."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_FORMS = "write N, LOW-HIGH, normal:MEAN,DEVIATION or lognormal:MEAN,DEVIATION, such as 256 or 128-512"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens, at least 1: `kind` with its two parameters.

    uniform: from a to b, both included (a fixed length has a = b); normal, lognormal: mean a, standard
    deviation b.
    """

    kind: str
    a: float
    b: float

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """From `256`, `128-512`, `normal:256,64` or `lognormal:256,200`. ValueError for anything else."""
        kind, colon, rest = text.strip().partition(":")
        try:
            if colon:
                a, b = (float(part) for part in rest.split(","))
            else:
                kind = "uniform"
                low, _, high = text.partition("-")
                a, b = int(low), int(high or low)
        except ValueError:
            raise ValueError(f"{text!r} is no length; {_FORMS}") from None
        known = kind in ("uniform", "normal", "lognormal")
        if not known or not (math.isfinite(a) and math.isfinite(b)) or a < 1 or b < 0:
            raise ValueError(f"{text!r} is no length of at least 1 token; {_FORMS}")
        if kind == "uniform" and b < a:
            raise ValueError(f"{text!r} is no length: the longest is shorter than the shortest; {_FORMS}")
        return cls(kind, a, b)

    @property
    def fixed(self) -> int | None:
        """The length that all have; None where they differ."""
        same = self.a == self.b if self.kind == "uniform" else self.b == 0
        return round(self.a) if same else None

    def draw(self, rng: random.Random) -> int:
        """One length."""
        if (fixed := self.fixed) is not None:
            return fixed
        if self.kind == "uniform":
            return rng.randint(int(self.a), int(self.b))
        if self.kind == "normal":
            return max(1, round(rng.gauss(self.a, self.b)))
        spread = math.log1p((self.b / self.a) ** 2)
        return max(1, round(rng.lognormvariate(math.log(self.a) - spread / 2, math.sqrt(spread))))

    def __str__(self) -> str:
        if self.fixed is not None:
            return str(self.fixed)
        return f"{self.a:g}-{self.b:g}" if self.kind == "uniform" else f"{self.kind} {self.a:g}±{self.b:g}"
