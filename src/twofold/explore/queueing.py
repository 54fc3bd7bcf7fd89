"""Waiting, in closed form: what random arrivals do to latencies. Seconds and requests per second
throughout."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, lgamma, log, sqrt

# Standard normal quantiles.
NORMAL = {"p50": 0.0, "p90": 1.2815515655446004, "p99": 2.3263478740408408}
SHARE = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_TERMS = 12
"""About how many values of a count are looked at."""


def gated_first_token(rate: float, step: float, prompt: float) -> tuple[float, Callable[[float], float]]:
    """Time to first token where every prompt joins the next step: (mean, probability of at most t).

    A step takes Y = step + K · prompt with K the arrivals during the one before it: a gated queue. With ρ =
    rate · prompt, E[Y] = step / (1 - ρ) and E[Y²] = (step² + 2·step·ρ·E[Y] + prompt²·rate·E[Y]) / (1 - ρ²),
    by taking moments of both sides. A request arrives in a step of length-biased size Y*, waits for what is
    left of it (uniform), and then sits in a step with all who arrived during Y*. K is taken as negative
    binomial with its mean and its variance, that of Y over prompt².
    """
    load = rate * prompt
    assert 0 <= load < 1
    mean = step / (1.0 - load)
    square = (step * step + 2.0 * step * load * mean + prompt * prompt * rate * mean) / (1.0 - load * load)
    average = square / (2.0 * mean) + step + prompt + load * square / mean
    spread = (square - mean * mean) / (prompt * prompt)
    weighted = [
        (step + k * prompt, chance * (step + k * prompt)) for k, chance in _counts(rate * mean, spread)
    ]
    total = sum(weight for _, weight in weighted)
    parts = [
        (length, step + (1 + j) * prompt, weight / total * chance)
        for length, weight in weighted
        for j, chance in _counts(rate * length, rate * length)
    ]

    def within(t: float) -> float:
        return sum(share * min(1.0, max(0.0, (t - after) / length)) for length, after, share in parts)

    return average, within


def queued_wait(rate: float, service: float, vacation: float) -> tuple[float, Callable[[float], float]]:
    """Waiting where prompts are served one after the other, each in `service`, and other steps of `vacation`
    run in between: (mean, probability of at most t).

    M/D/1 with vacations: the waiting time is that of M/D/1 plus what is left of a vacation (Doshi, "Queueing
    systems with vacations", Queueing Systems 1, 1986): rate·service² / (2(1 - ρ)) + vacation / 2. The tail of
    the first part is taken as exponential, ρ·exp(-ρ·t / mean), which has its mean.
    """
    load = rate * service
    assert 0 <= load < 1
    mean = rate * service * service / (2.0 * (1.0 - load))
    decay = load / mean if mean else 0.0

    def within(t: float) -> float:
        if t <= 0:
            return 0.0
        tail = 0.0
        begun = min(t, vacation)
        if decay and vacation:
            tail = load / (decay * vacation) * (exp(-decay * (t - begun)) - exp(-decay * t))
        elif decay:
            tail = load * exp(-decay * t)
        return (begun / vacation if vacation else 1.0) - tail

    return mean + vacation / 2.0, within


def seat_wait(rate: float, held: float, seats: int) -> tuple[float, Callable[[float], float]]:
    """Waiting for one of `seats` that requests hold for `held` each: (mean, probability of at most t).

    Erlang's delay formula for exponential holding times; the wait is halved for holding times that hardly
    vary (Lee and Longton's approximation for M/G/c, 1959). The tail is exponential.
    """
    offered = rate * held
    assert offered < seats
    chance = _erlang_c(offered, seats)
    mean = 0.5 * chance * held / (seats - offered)

    def within(t: float) -> float:
        if not mean:
            return 1.0
        return 1.0 - chance * exp(-max(0.0, t) * chance / mean)

    return mean, within


def quantile(within: Callable[[float], float], share: float, high: float) -> float:
    """The time that a share of requests keeps; `high` is a first guess from above."""
    while within(high) < share:
        high *= 2.0
    low = 0.0
    for _ in range(30):
        middle = (low + high) / 2.0
        if within(middle) < share:
            low = middle
        else:
            high = middle
    return high


def _erlang_c(offered: float, seats: int) -> float:
    """Share of arrivals that find all `seats` taken, from Erlang's B by its recursion."""
    if not offered:
        return 0.0
    blocked = 1.0
    for n in range(1, seats + 1):
        blocked = offered * blocked / (n + offered * blocked)
    return blocked / (1.0 - offered / seats * (1.0 - blocked))


def _counts(mean: float, variance: float) -> list[tuple[int, float]]:
    """(count, probability) of the counts that matter, made to sum to one: Poisson, or negative binomial where
    the variance is above the mean."""
    if mean <= 0:
        return [(0, 1.0)]
    spread = int(4.0 * sqrt(max(mean, variance))) + 4
    low, high = max(0, int(mean) - spread), int(mean) + spread
    stride = max(1, (high - low) // _TERMS)
    if variance > mean * 1.001:
        kept, times = mean / variance, mean * mean / (variance - mean)
        logs = [
            (k, lgamma(k + times) - lgamma(times) - lgamma(k + 1) + times * log(kept) + k * log(1.0 - kept))
            for k in range(low, high + 1, stride)
        ]
    else:
        logs = [(k, k * log(mean) - mean - lgamma(k + 1)) for k in range(low, high + 1, stride)]
    found = [(k, exp(value)) for k, value in logs]
    total = sum(chance for _, chance in found)
    return [(k, chance / total) for k, chance in found]
