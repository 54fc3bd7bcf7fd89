"""FastSwitch on an A10 with LLaMA-8B whose memory is short, against the same engine without its three means.

ShareGPT's conversations are not at hand: each turn is a request of its own with the whole conversation as its
prompt. Assumed: 1,000 tokens of context and 250 of answer on average, exponentially distributed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from twofold.claims.ledger import Outcome
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import Request, SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan

MODEL, DEVICE = "llama-3.1-8b", "a10"
COUNT, RATE = 300, 2.2
CONTEXT, ANSWER = 1000, 250
HOST_MEMORY = 60 * 10**9


class Served(NamedTuple):
    """P95 seconds to the first token, P99.9 seconds between tokens."""

    ttft: float
    tbt: float


@lru_cache(maxsize=2)
def serve(fast: bool) -> Served:
    """The load with FastSwitch, or with the same priorities and plain swapping."""
    plain = {"group": 0, "overlapped": False, "reuse": False}
    plan = Plan.from_dict(
        {
            "model": MODEL,
            "precision": "fp16",
            "techniques": [{"name": "fastswitch", "params": {} if fast else plain}],
            "workload": {"rate": RATE},
            "engine": {"swap_memory": HOST_MEMORY, "prefix_caching": False, "max_context": 8192},
        }
    )
    engine = build_engine(plan, make_device(DEVICE), get_spec(MODEL))
    rng = random.Random(0)
    items, now = [], 0.0
    for _ in range(COUNT):
        now += rng.expovariate(RATE)
        prompt, answer = (max(8, min(4000, round(rng.expovariate(1 / mean)))) for mean in (CONTEXT, ANSWER))
        items.append((now, prompt, SamplingParams(max_tokens=answer, ignore_eos=True)))
    done = engine.play(items, record_times=True)
    engine.check_techniques()
    return _served(done)


def _served(requests: Sequence[Request]) -> Served:
    first = sorted((r.first_token_time or 0.0) - r.arrival_time for r in requests)
    gaps = sorted(
        b - a for r in requests for a, b in zip(r.token_times or (), (r.token_times or ())[1:], strict=False)
    )
    return Served(
        first[round(0.95 * (len(first) - 1))],
        gaps[round(0.999 * (len(gaps) - 1))],
    )


def _outcome(ratio: float, what: str, unit: str, fast: float, plain: float) -> Outcome:
    why = (
        "the paper's trace is not public: lengths and rate are assumed. The baseline here already copies the "
        "keys or values of a block in one transfer, at the link's rate, so that little is left to gain"
    )
    found = f"{what} {fast:.3g} {unit}, plain {plain:.3g} {unit}"
    how = f"predicted on {DEVICE}, {COUNT} requests at {RATE:g}/s: {found}"
    return Outcome((ratio, ratio), why, how)


def p95_ttft() -> Outcome:
    """P95 time to first token, baseline over FastSwitch."""
    fast, plain = serve(True), serve(False)
    return _outcome(plain.ttft / fast.ttft, "P95 time to first token", "s", fast.ttft, plain.ttft)


def p999_tbt() -> Outcome:
    """P99.9 time between tokens, baseline over FastSwitch."""
    fast, plain = serve(True), serve(False)
    return _outcome(plain.tbt / fast.tbt, "P99.9 time between tokens", "s", fast.tbt, plain.tbt)
