"""Llumnix on sixteen A10 with LLaMA-7B, with the lengths and rates of its authors' artifact.

The artifact (branch osdi24ae of AlibabaPAI/llumnix, folders 63_serving_performance and
64_support_for_priorities) draws lengths of prompts and outputs from a cut Zipf law that is scaled to the
mean. Its largest gain in P99 time to first token (figure11.png) is at 512 tokens in and out and 3 to 3.1
requests/s (Poisson); priorities are at 128 tokens and 26 requests/s (Gamma, coefficient of variation 2 to 8).
Its INFaaS++ dispatches as Llumnix does, to the instance with most memory per request, queues included, and
moves nothing. Its engine is a vLLM of 2023 whose host time per step is that of the same figure (serving
profile vllm-ray); without it requests end sooner, caches hold less, and hardly anything queues.
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
EXPONENTS = {128: 2.0, 512: 1.15}
"""Of the Zipf law, by the mean length."""
COUNT = 2000
"""Requests, a fifth of the artifact's."""
SERVING_LENGTH, SERVING_RATE = 512, 3.1
PRIORITY_LENGTH, PRIORITY_RATE, VARIATION = 128, 26.0, 8.0
IMPORTANT = 0.1
"""Share of requests of high priority."""
MIGRATE = 3 * 16.0
"""Freeness at which requests move: 3 blocks of 16 tokens per request there."""
SOFTWARE = "vllm-ray"


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


_PARAMS: dict[str, Any] = {"instances": INSTANCES, "migrate_out": MIGRATE, "migrate_in": MIGRATE}


def _play(
    mean: int,
    rate: float,
    variation: float = 1.0,
    priorities: Sequence[int] = (),
    policy: FleetPolicy | None = None,
) -> list[Request]:
    uses = [] if policy is not None else [{"name": "llumnix", "params": _PARAMS}]
    fleet = predicted_fleet(MODEL, DEVICE, uses, policy, context=CONTEXT, serving=SOFTWARE)
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


def _waits(requests: Sequence[Request]) -> list[float]:
    """Seconds to the first token, in order."""
    return sorted((r.first_token_time or 0.0) - r.arrival_time for r in requests)


def tail_ttft() -> Outcome:
    """P99 time to first token, INFaaS++ over Llumnix."""
    waits = [_waits(_play(SERVING_LENGTH, SERVING_RATE, policy=policy)) for policy in (_infaas(), None)]
    base, ours = (found[round(0.99 * (len(found) - 1))] for found in waits)
    later, sooner = (found[round(0.995 * (len(found) - 1))] for found in waits)
    return Outcome(
        (base / ours, base / ours),
        "a request of thousands of tokens fills an instance, and those sent there wait for its end; moving "
        "one makes room. P99 lies where waiting begins, so that the ratio is steep there "
        f"({later / sooner:.0f} at P99.5), and of a fifth of the source's requests the 20 slowest decide",
        f"predicted on {INSTANCES} {DEVICE}, {COUNT} requests of {SERVING_LENGTH} tokens in and out at "
        f"{SERVING_RATE:g}/s: {base:.2f} s with INFaaS++, {ours:.2f} s with Llumnix",
    )


def high_priority() -> Outcome:
    """Mean end-to-end latency of important requests, without priorities over with them."""
    rng = random.Random(1)
    important = [-1 if rng.random() < IMPORTANT else 0 for _ in range(COUNT)]
    chosen = {f"request-{i}" for i, priority in enumerate(important) if priority}

    def served(priorities: Sequence[int]) -> list[Request]:
        done = _play(PRIORITY_LENGTH, PRIORITY_RATE, VARIATION, priorities)
        return [r for r in done if r.id in chosen]

    before, after = served(()), served(important)
    without, with_them = (
        fmean((r.last_token_time or 0.0) - r.arrival_time for r in found) for found in (before, after)
    )
    return Outcome(
        (without / with_them, without / with_them),
        "the source's gain is less waiting for a burst to pass and faster steps beside fewer requests. Here "
        f"bursts hardly wait ({fmean(_waits(before)):.1f} s to the first token in the mean), and a step "
        "takes about as long in a small batch as in a large one, where its paged attention of 2023 "
        "presumably slowed with the batch",
        f"predicted on {INSTANCES} {DEVICE}, {COUNT} requests of {PRIORITY_LENGTH} tokens in and out at "
        f"{PRIORITY_RATE:g}/s, coefficient of variation {VARIATION:g}: {without:.2f} s without, "
        f"{with_them:.2f} s with priorities",
    )
