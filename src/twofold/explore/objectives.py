"""What makes a candidate better: the objectives as numbers to be minimised, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.explore.plan import Objective

UNITS: dict[Objective, str] = {
    "cost": "USD per million tokens",
    "energy": "J/token",
    "latency": "s",
    "throughput": "token/s",
}
TITLES: dict[Objective, str] = {
    "cost": "cost",
    "energy": "energy",
    "latency": "latency of a request",
    "throughput": "throughput",
}


def cost_of(price_per_hour: float, tokens_per_s: float) -> float:
    """USD per million generated tokens of a deployment that costs that much."""
    return price_per_hour / 3600.0 / tokens_per_s * 1e6


def objective_values(
    objectives: Sequence[Objective], *, price: float | None, tokens_per_s: float, joules: float, e2e: float
) -> tuple[float, ...]:
    """The objectives in their order, smaller is better (throughput is negated). price: USD per hour of the
    whole deployment, needed for cost."""
    found = []
    for name in objectives:
        if name == "cost":
            assert price is not None, "a candidate without a price is refused before"
            found.append(cost_of(price, tokens_per_s))
        else:
            found.append({"energy": joules, "latency": e2e, "throughput": -tokens_per_s}[name])
    return tuple(found)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse than `other` and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(
        a < b for a, b in zip(one, other, strict=True)
    )


class Front:
    """The candidates that no other one dominates, by number."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[float, ...]] = {}

    def add(self, number: int, values: tuple[float, ...]) -> None:
        """Take in a candidate that meets every constraint."""
        if self.beats(values):
            return
        self.values = {n: v for n, v in self.values.items() if not dominates(values, v)}
        self.values[number] = values

    def beats(self, values: Sequence[float]) -> bool:
        """Whether something on the front dominates `values`: what they are of, or are a lower bound of,
        cannot be on it."""
        return any(dominates(v, values) for v in self.values.values())
