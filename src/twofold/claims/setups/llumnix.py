"""Llumnix on sixteen A10 with LLaMA-7B, with the lengths and rates of its authors' artifact.

The artifact (branch osdi24ae of AlibabaPAI/llumnix, folders 63_serving_performance and
64_support_for_priorities) draws lengths of prompts and outputs from a cut Zipf law that is scaled to the
mean: for serving 256 tokens with exponent 1.5, at 7.4 to 8 requests/s (Poisson); for priorities 128 tokens
with exponent 2, at 26 requests/s (Gamma, coefficient of variation 2 to 8). Its INFaaS++ dispatches as Llumnix
does, to the instance with most memory per request, queues included, and moves nothing. Neither queues here at
16 to 56 requests/s either.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

from twofold.claims.ledger import Outcome
from twofold.claims.setups.fleets import predicted_fleet
from twofold.engine.request import Request, SamplingParams
from twofold.fleet.policy import FleetPolicy, Member, Move, Stages
from twofold.techniques.scheduling.freeness import Freeness
from twofold.techniques.scheduling.llumnix import Llumnix

MODEL, DEVICE, INSTANCES = "llama-2-7b", "a10", 16
CONTEXT = 16_384
"""The model has the shapes of LLaMA-7B; the longest requests exceed its context, in the paper as well."""
LONGEST = 6144
EXPONENTS = {128: 2.0, 256: 1.5}
"""Of the Zipf law, by the mean length."""
COUNT = 1000
"""Requests, a tenth of the artifact's."""
SERVING_RATE = 8.0
PRIORITY_RATE, VARIATION = 26.0, 8.0
IMPORTANT = 0.1
"""Share of requests of high priority."""
MIGRATE = {128: 3 * 16.0, 256: 10 * 16.0}
"""Freeness at which requests move, by the mean length: 3 and 10 blocks of 16 tokens per request there."""


_WHY = (
    "at the rates of its authors' artifact hardly anything queues on the instances predicted here "
    "(presumably its early vLLM served less), so that there is little that moving requests could save"
)


class Infaas(Freeness):
    """INFaaS++: Llumnix's dispatch, and requests stay."""

    name = "infaas++"

    def moves(self, members: Sequence[Member], now: float) -> list[Move]:
        """None ever."""
        del members, now
        return []


def _lengths(rng: random.Random, mean: int) -> list[int]:
    ranks = range(1, 2 * mean)
    drawn = rng.choices(ranks, [rank ** -EXPONENTS[mean] for rank in ranks], k=COUNT)
    scale = mean / fmean(drawn)
    return [min(LONGEST, math.ceil(value * scale)) for value in drawn]


@lru_cache(maxsize=4)
def load(mean: int, rate: float, variation: float = 1.0) -> tuple[tuple[float, int, SamplingParams], ...]:
    """COUNT requests of `mean` tokens in and out at `rate` per second, Gamma arrivals with that coefficient
    of variation (1: Poisson)."""
    rng = random.Random(0)
    prompts, outputs = _lengths(rng, mean), _lengths(rng, mean)
    shape = 1.0 / variation**2
    items, now = [], 0.0
    for prompt, output in zip(prompts, outputs, strict=True):
        now += rng.gammavariate(shape, 1.0 / (rate * shape))
        items.append((now, prompt, SamplingParams(max_tokens=output, ignore_eos=True)))
    return tuple(items)


def _params(mean: int) -> dict[str, Any]:
    return {"instances": INSTANCES, "migrate_out": MIGRATE[mean], "migrate_in": MIGRATE[mean]}


def _play(
    mean: int,
    rate: float,
    variation: float = 1.0,
    priorities: Sequence[int] = (),
    policy: FleetPolicy | None = None,
) -> list[Request]:
    uses = [] if policy is not None else [{"name": "llumnix", "params": _params(mean)}]
    fleet = predicted_fleet(MODEL, DEVICE, uses, policy, context=CONTEXT)
    return fleet.play(load(mean, rate, variation), priorities=priorities)


def _infaas() -> Infaas:
    like = Llumnix()
    return Infaas(
        INSTANCES,
        Stages(like.max_stages, like.last_stage_max_blocks),
        headroom=like.headroom,
        migrate_out=like.migrate_out,
        migrate_in=like.migrate_in,
        interval=like.interval,
        scaling=None,
    )


def _tail(requests: Sequence[Request]) -> float:
    waits = sorted((r.first_token_time or 0.0) - r.arrival_time for r in requests)
    return waits[round(0.99 * (len(waits) - 1))]


def tail_ttft() -> Outcome:
    """P99 time to first token, INFaaS++ over Llumnix, at the highest rate."""
    base, ours = _tail(_play(256, SERVING_RATE, policy=_infaas())), _tail(_play(256, SERVING_RATE))
    how = (
        f"predicted on {INSTANCES} {DEVICE}, {COUNT} requests at {SERVING_RATE:g}/s: {base:.2f} s with "
        f"INFaaS++, {ours:.2f} s with Llumnix, the time that the longest prompts take"
    )
    return Outcome((base / ours, base / ours), _WHY, how)


def high_priority() -> Outcome:
    """Mean end-to-end latency of important requests, without priorities over with them."""
    rng = random.Random(1)
    important = [-1 if rng.random() < IMPORTANT else 0 for _ in range(COUNT)]
    chosen = {f"request-{i}" for i, priority in enumerate(important) if priority}

    def mean(priorities: Sequence[int]) -> float:
        done = _play(128, PRIORITY_RATE, VARIATION, priorities)
        return fmean((r.last_token_time or 0.0) - r.arrival_time for r in done if r.id in chosen)

    without, with_them = mean(()), mean(important)
    how = (
        f"predicted on {INSTANCES} {DEVICE}, {COUNT} requests at {PRIORITY_RATE:g}/s, coefficient of "
        f"variation {VARIATION:g}: {without:.2f} s without, {with_them:.2f} s with priorities"
    )
    return Outcome((without / with_them, without / with_them), _WHY, how)
