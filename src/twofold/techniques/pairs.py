"""Which techniques work together: derived from what each provides and excludes, never listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from twofold.techniques.base import Info, Technique
from twofold.techniques.registry import technique_class, technique_names


@dataclass(frozen=True, slots=True)
class Pair:
    """Two techniques and why they are refused together (empty where they run)."""

    first: str
    second: str
    reason: str

    @property
    def allowed(self) -> bool:
        """Whether the pair runs."""
        return not self.reason


def conflict(a: Info, b: Info) -> str:
    """Why `a` and `b` are refused together, with the alternative; empty where they run."""
    for one, other in ((a, b), (b, a)):
        for tag in one.excludes:
            if tag in other.provides:
                return f"{one.name} and {other.name} cannot be combined: {one.reason(tag)}"
    return ""


def check_together(techniques: Sequence[Technique]) -> None:
    """ValueError with the reason and the alternative where two of `techniques` exclude each other."""
    for a, b in combinations(techniques, 2):
        if reason := conflict(a.info, b.info):
            raise ValueError(reason)


def all_pairs() -> list[Pair]:
    """Every pair of known techniques."""
    infos = [technique_class(name).info for name in technique_names()]
    return [Pair(a.name, b.name, conflict(a, b)) for a, b in combinations(infos, 2)]
