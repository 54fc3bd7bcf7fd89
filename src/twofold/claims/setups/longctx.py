"""The running example of arXiv:2405.08944: a 34B model with 50K tokens of context against 4K, on one A100
with 80 GB. At theoretical peak, as the source reckons: FLOP over the peak rate, bytes over the peak
bandwidth.

The model is Yi-34B-200K. The figures of the source are read from the summary at
app.argminai.com/arxiv-dashboard/papers/2405.08944v1; answers are of 250 tokens, which follows from the decode
figures (weights and cache over 2 TB/s, 250 times).
"""

from __future__ import annotations

from functools import cache

from twofold.analysis.counting import StepCounter
from twofold.analysis.longctx import ContextCost, context_cost
from twofold.analysis.peak import peak_device
from twofold.claims.ledger import Outcome
from twofold.devices.catalog import get_device
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.base import Claim

_MODEL, _DEVICE = "yi-34b-200k", "a100-80g-sxm"
_LONG, _SHORT, _ANSWER = 50_000, 4_000, 250
_MEMORY = 80 << 30
_SOURCE = "arXiv:2405.08944v1, running example (as summarised at app.argminai.com)"
_HOW = "Yi-34B-200K in bf16 on an A100 SXM at its datasheet's peaks"


def _claim(key: str, figure: str, low: float, high: float, unit: str) -> Claim:
    name = f"longctx-{key}"
    return Claim(
        name,
        figure,
        (low, high),
        unit,
        "theoretical peak",
        "34B, 50K and 4K tokens",
        "NVIDIA A100 80 GB",
        _SOURCE,
        key,
    )


CLAIMS = (
    _claim("prefill_long", "prefill of 50K tokens", 14.1, 14.1, "s"),
    _claim("prefill_short", "prefill of 4K tokens", 0.89, 0.89, "s"),
    _claim("decode_long", "answer after 50K tokens", 9.8, 9.8, "s"),
    _claim("decode_short", "answer after 4K tokens", 8.5, 8.5, "s"),
    _claim("concurrency_long", "users of 50K tokens at a time", 1, 1, "users"),
    _claim("concurrency_short", "users of 4K tokens at a time", 20, 20, "users"),
)


@cache
def _cost(context: int) -> ContextCost:
    plan = Plan.from_dict(
        {
            "model": _MODEL,
            "precision": "bf16",
            "workload": {"prompt": 16, "output": 16},
            "engine": {"memory": _MEMORY, "max_num_seqs": 1},
        }
    )
    return context_cost(StepPredictor(plan, peak_device(_DEVICE), spec=get_spec(_MODEL)), context, _ANSWER)


def _exact(value: float, why: str, how: str) -> Outcome:
    return Outcome((value, value), why, f"computed: {_HOW}, {how}")


def prefill_long() -> Outcome:
    """Seconds of 50K prompt tokens."""
    share, matrix = _prefill_parts(_LONG)
    return _exact(
        _cost(_LONG).prefill,
        f"attention with the causal half left out (56 heads of 128 in 60 layers) is {share:.0%} of the "
        "matrix "
        f"FLOP, which alone take {matrix:.1f} s at peak; elementwise work takes the rest. The claimed time "
        f"leaves {1 - matrix * (1 - share) / 14.1:.0%} for attention, and nothing for the rest",
        "in chunks of 2,048 tokens",
    )


def prefill_short() -> Outcome:
    """Seconds of 4K prompt tokens."""
    share, matrix = _prefill_parts(_SHORT)
    return _exact(
        _cost(_SHORT).prefill,
        f"matrix FLOP, {share:.0%} of them attention, take {matrix:.2f} s at peak, elementwise work the rest",
        "in chunks of 2,048 tokens",
    )


def _prefill_parts(context: int) -> tuple[float, float]:
    """The share of attention in the matrix FLOP of a prompt, and the seconds that those take at peak."""
    plan = Plan.from_dict(
        {
            "model": _MODEL,
            "precision": "bf16",
            "workload": {"prompt": 16, "output": 16},
            "engine": {"max_num_seqs": 1, "cache_blocks": 16},
        }
    )
    found = StepCounter(plan, get_spec(_MODEL)).step([Span(context, context)], 1)
    peak = get_device(_DEVICE).matmul["bf16"].value
    return found.flop_of["attention"] / found.matrix_flop, found.matrix_flop / peak


def decode_long() -> Outcome:
    """Seconds of 250 tokens behind 50K."""
    return _exact(
        _cost(_LONG).decode,
        "weights and the whole cache are read for every token",
        f"{_ANSWER} tokens, one user",
    )


def decode_short() -> Outcome:
    """Seconds of 250 tokens behind 4K."""
    return _exact(
        _cost(_SHORT).decode, "the same weights, a twelfth of the cache", f"{_ANSWER} tokens, one user"
    )


def concurrency_long() -> Outcome:
    """Contexts of 50K tokens that fit."""
    return _exact(
        _cost(_LONG).concurrency,
        "weights leave room for one cache of 12.3 GB, where 80 GB are 80 · 2³⁰ bytes",
        "80 GiB, all of it used",
    )


def concurrency_short() -> Outcome:
    """Contexts of 4K tokens that fit."""
    return _exact(
        _cost(_SHORT).concurrency,
        "17 GB beside the weights hold as many caches of 1.05 GB, answers included; the claimed number does "
        "not follow from the 80 GB, the weights and the cache that the other figures rest on",
        "80 GiB, all of it used",
    )
