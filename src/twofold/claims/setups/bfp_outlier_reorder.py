"""The claim of arXiv:2403.20137 on memory: keys of Llama-2-7B in block floating point, by counting.

The abstract promises twice the savings without naming the other side; the source's formats have mantissas of
8 and of 4 bits with an exponent of 8 bits to a block.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine

_LOAD = BatchLoad(1, 1024, 1)


def key_bytes() -> Outcome:
    """Bytes of cached keys with 8-bit mantissas over those with 4-bit mantissas."""
    held = []
    for mantissa in (8, 4):
        use = f"bfp-outlier-reorder:key_mantissa={mantissa},block=32"
        engine = predicted_engine("llama-2-7b", "a100-80g-sxm", [use], _LOAD)
        held.append(sum(cache.key_cost(1)[0] for cache in engine.runner.model.caches))
    ratio = held[0] / held[1]
    return Outcome(
        (ratio, ratio),
        "the shared exponents take a quarter of a bit an element on both sides",
        f"counted: {held[0]} and {held[1]} bytes of keys a token",
    )
