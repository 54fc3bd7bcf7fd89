"""What arXiv:2402.07443 proves, held against counted traffic: how the elements that FlashAttention moves grow
with the cache, the prompt and the width of a head, and that tiled products grow as the second bound says
where M < d².

The bounds hide constant factors, so exponents are compared: slopes of straight lines on logarithmic scales
through exact counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from twofold.claims.ledger import Outcome
from twofold.ops.io_bound import Shape, flash_attention_2, two_products
from twofold.techniques.base import Claim

_SOURCE = "arXiv:2402.07443, abstract"
_N, _D = 1 << 16, 128
_HOW = "counted: elements that cross the cache's edge, exactly, without a mask"


def _claim(key: str, figure: str, exponent: float) -> Claim:
    return Claim(
        f"io-{key}",
        figure,
        (exponent, exponent),
        "1",
        "lower bound",
        "one head",
        "cache of M elements",
        _SOURCE,
        key,
    )


CLAIMS = (
    _claim("over_cache", "exponent of M in FlashAttention's traffic, M ≥ d²", -1.0),
    _claim("over_length", "exponent of N in FlashAttention's traffic", 2.0),
    _claim("over_width", "exponent of d in FlashAttention's traffic", 2.0),
    _claim("small_cache", "exponent of M in the better algorithm's traffic, M < d²", -0.5),
)


def slope(count: Callable[[int], int], over: Sequence[int]) -> float:
    """The exponent of the power law through `count(x)` for every x of `over`, by least squares."""
    xs, ys = [math.log(x) for x in over], [math.log(count(x)) for x in over]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return rise / sum((x - mean_x) ** 2 for x in xs)


def _outcome(value: float, why: str, how: str) -> Outcome:
    return Outcome((value, value), why, f"{_HOW}, {how}")


def over_cache() -> Outcome:
    """From d² to a quarter of all queries."""
    sizes = [_D * _D << step for step in range(0, 8)]
    return _outcome(
        slope(lambda m: flash_attention_2(Shape(_N, _N, _D), m), sizes),
        "a cache twice as large holds twice the queries, and keys pass half as often; queries and outputs, "
        "moved once, "
        "flatten the line a little",
        f"FlashAttention-2, N = {_N:,}, d = {_D}, M from d² to {sizes[-1]:,}",
    )


def over_length() -> Outcome:
    """Prompts far longer than the cache."""
    return _outcome(
        slope(lambda n: flash_attention_2(Shape(n, n, _D), 1 << 17), [1 << e for e in range(14, 20)]),
        "all keys pass once per block of queries",
        f"FlashAttention-2, d = {_D}, M = 131,072, N from 16,384 to 524,288",
    )


def over_width() -> Outcome:
    """Widths that the cache has room for."""
    return _outcome(
        slope(lambda d: flash_attention_2(Shape(_N, _N, d), 1 << 17), [32, 64, 128, 256]),
        "keys twice as wide take twice the traffic, and half as many queries fit; scores and statistics "
        "beside narrow "
        "queries take room that does not grow with d",
        f"FlashAttention-2, N = {_N:,}, M = 131,072, d from 32 to 256",
    )


def small_cache() -> Outcome:
    """Tiled products that keep the scores in memory, in caches that hold a fraction of d² elements."""
    width = 1 << 11
    sizes = [3 * (1 << e) ** 2 for e in range(3, 9)]
    return _outcome(
        slope(lambda m: two_products(Shape(_N, _N, width), m), sizes),
        "three square tiles share the cache; the pass over the scores in between does not shrink with it",
        f"two tiled products, N = {_N:,}, d = {width:,}, M from {sizes[0]:,} to {sizes[-1]:,}",
    )
