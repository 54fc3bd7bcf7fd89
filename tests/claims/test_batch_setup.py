"""One batch of equal requests, as a framework that copies its cache serves it."""

from __future__ import annotations

import pytest

from twofold.claims.setups.batch import BatchLoad, copying_seconds, predicted_engine


def test_a_cache_is_read_and_written_once_for_each_token_after_the_first() -> None:
    load = BatchLoad(4, 1000, 3)
    engine = predicted_engine("llama-2-7b", "a100-80g-sxm", [], load)
    seen: list[int] = []

    def copied(tokens: int) -> float:
        seen.append(tokens)
        return 1e9

    seconds = copying_seconds(engine, load, copied)
    assert seen == [1000, 1001]
    moved = 2 * 4 * 2e9
    assert moved / 2.039e12 < seconds < moved / 1.5e12
    assert copying_seconds(engine, load, lambda tokens: 2 * copied(tokens)) == pytest.approx(
        2 * seconds, 0.01
    )
