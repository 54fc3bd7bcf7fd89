"""Splitwise's clusters, a tenth of their size: the highest rate at which all service levels are met.

Lengths are those of the published conversation trace, arrivals Poisson, as in the paper. The service levels
(its table VI) bound the slowdown against one request alone on a DGX-A100; all nine must be met. The model has
the shapes of BLOOM-176B, the paper's; every machine computes whole prompts, the baseline's beside decodes.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from statistics import fmean
from typing import Any

from twofold.claims.ledger import Outcome
from twofold.claims.setups.fleets import Staying, conversations, predicted_fleet
from twofold.engine.request import Request, SamplingParams
from twofold.fleet.fleet import Fleet
from twofold.fleet.policy import FleetPolicy
from twofold.models.catalog import get_spec
from twofold.models.spec import ModelSpec

TP = 8
CONTEXT = 16_384
"""The longest requests of the trace exceed the model's own context; the paper runs them all the same."""
A100, H100 = "a100-80g-sxm", "h100-sxm"
MACHINES = {A100: 7, H100: 4}
"""Of equal power: a tenth of the paper's 70 DGX-A100 and 40 DGX-H100."""
POOLS = (4, 3)
"""Prompt and token machines among the DGX-A100: a tenth of the 45 and 25 that the authors' simulator has for
the conversation trace (scripts/run_throughput_isopower.sh)."""
SECONDS = 20.0
STEP = 1.15
# By metric: P50, P90 and P99.
LEVELS = {"ttft": (2.0, 3.0, 6.0), "tbt": (1.25, 1.5, 5.0), "e2e": (1.25, 1.5, 5.0)}
_SHARES = (0.5, 0.9, 0.99)
_LENGTHS = (64, 256, 512, 1024, 2048, 4096, 8192)


def _bloom() -> ModelSpec:
    """BLOOM-176B (huggingface.co/bigscience/bloom config.json) but for its positions, which take no time."""
    shapes: dict[str, Any] = {
        "num_layers": 70,
        "hidden": 14_336,
        "num_heads": 112,
        "num_kv_heads": 112,
        "ffn_hidden": 57_344,
        "vocab_size": 250_880,
    }
    return replace(get_spec("opt-175b"), name="bloom-176b", **shapes)


def _fleet(device: str, techniques: list[dict[str, Any]], policy: FleetPolicy | None = None) -> Fleet:
    limits = {"chunked_prefill": False, "max_num_batched_tokens": CONTEXT}
    return predicted_fleet(_bloom(), device, techniques, policy, tp=TP, context=CONTEXT, **limits)


def _alone(prompt: int, output: int) -> Request:
    fleet = _fleet(A100, [], Staying(1, in_turn=True))
    params = SamplingParams(max_tokens=output, ignore_eos=True)
    return fleet.play([(0.0, prompt, params)])[0]


@cache
def _times_alone() -> tuple[list[float], float]:
    """Seconds to the first token by prompt length, and between tokens, of one request on a DGX-A100."""
    first = [_alone(length, 1).first_token_time or 0.0 for length in _LENGTHS]
    one = _alone(1024, 128)
    return first, ((one.last_token_time or 0.0) - (one.first_token_time or 0.0)) / 127


def _first_alone(prompt: int) -> float:
    """Seconds to the first token, between the lengths that were predicted."""
    first, _ = _times_alone()
    i = min(max(bisect_left(_LENGTHS, prompt), 1), len(_LENGTHS) - 1)
    (a, b), (x, y) = _LENGTHS[i - 1 : i + 1], first[i - 1 : i + 1]
    return x + (y - x) * max(prompt - a, 0) / (b - a)


def meets(requests: Sequence[Request]) -> bool:
    """Whether all service levels are met."""
    _, between = _times_alone()
    slow: dict[str, list[float]] = {"ttft": [], "tbt": [], "e2e": []}
    for r in requests:
        assert r.first_token_time is not None
        assert r.last_token_time is not None
        first = _first_alone(r.num_prompt_tokens)
        more = r.num_output_tokens - 1
        slow["ttft"].append((r.first_token_time - r.arrival_time) / first)
        slow["e2e"].append((r.last_token_time - r.arrival_time) / (first + more * between))
        if more:
            slow["tbt"].append((r.last_token_time - r.first_token_time) / more / between)
    for name, bounds in LEVELS.items():
        ordered = sorted(slow[name])
        for share, bound in zip(_SHARES, bounds, strict=True):
            if ordered[round(share * (len(ordered) - 1))] > bound:
                return False
    return True


def load(rate: float) -> list[tuple[float, int, SamplingParams]]:
    """Requests at `rate` per second for SECONDS."""
    rng = random.Random(0)
    lengths = conversations()
    items, now = [], 0.0
    while (now := now + rng.expovariate(rate)) < SECONDS:
        prompt, output = rng.choice(lengths)
        items.append((now, prompt, SamplingParams(max_tokens=output, ignore_eos=True)))
    return items


def highest_rate(make: Callable[[], Fleet], start: float) -> float:
    """The highest rate, in steps of 15 %, at which all levels are met, sought from `start` on."""

    def good(rate: float) -> bool:
        return meets(make().play(load(rate)))

    rate = start
    if good(rate):
        while good(rate * STEP):
            rate *= STEP
        return rate
    while not good(rate := rate / STEP):
        assert rate > 0.01, "no rate meets the levels"
    return rate


@lru_cache(maxsize=4)
def baseline(device: str) -> float:
    """The highest rate of machines that batch prompts and tokens together, at equal power."""
    count = MACHINES[device]
    return highest_rate(lambda: _fleet(device, [], Staying(count, in_turn=False)), 1.4 * count)


@lru_cache(maxsize=2)
def split() -> float:
    """The highest rate of Splitwise on DGX-A100."""
    prompt, token = POOLS
    use = {"name": "splitwise", "params": {"prompt": prompt, "token": token}}
    return highest_rate(lambda: _fleet(A100, [use]), baseline(A100))


_WHY = (
    "presumably prompts that are computed beside decodes hold those up less here than in the source's "
    "simulator, whose times are measurements of an early vLLM, so that the baselines do better; and a "
    "tenth of the machines cannot be cut into pools as finely"
)


def _over(device: str) -> Outcome:
    ratio = split() / baseline(device)
    mean = fmean(output for _, output in conversations())
    how = (
        f"predicted: {split():.1f} requests/s of {mean:.0f} output tokens on average with {POOLS[0]} + "
        f"{POOLS[1]} machines of 8 {A100}, {baseline(device):.1f} with {MACHINES[device]} of 8 {device}; "
        f"{SECONDS:g} s each"
    )
    return Outcome((ratio, ratio), _WHY, how)


def throughput_over_h100() -> Outcome:
    """Splitwise on DGX-A100 over a baseline of DGX-H100 of equal power."""
    return _over(H100)


def throughput_over_a100() -> Outcome:
    """Splitwise over a baseline on the same DGX-A100."""
    return _over(A100)
