"""The load of Llumnix's artifact, and its baseline."""

from __future__ import annotations

from statistics import fmean

import pytest

from twofold.claims.setups import llumnix
from twofold.engine.serving_profile import get_serving


@pytest.mark.parametrize(
    ("mean", "rate"),
    [
        (llumnix.SERVING_LENGTH, llumnix.SERVING_RATE),
        (llumnix.PRIORITY_LENGTH, llumnix.PRIORITY_RATE),
    ],
)
def test_lengths_have_their_mean_and_a_long_tail(mean: int, rate: float) -> None:
    load = llumnix.load(mean, rate)
    prompts = sorted(prompt for _, prompt, _ in load)
    assert len(load) == llumnix.COUNT
    assert fmean(prompts) == pytest.approx(mean, rel=0.02)
    assert prompts[len(prompts) // 2] < mean / 2
    assert prompts[-1] <= llumnix.LONGEST
    assert load[-1][0] == pytest.approx(llumnix.COUNT / rate, rel=0.05)


def test_the_software_computes_whole_prompts_first() -> None:
    profile = get_serving(llumnix.SOFTWARE)
    assert profile.scheduler.chunked_prefill is False
    assert profile.scheduler.policy == "prefill-first"
    assert profile.scheduler.max_num_batched_tokens is not None
    assert profile.scheduler.max_num_batched_tokens.value > llumnix.LONGEST
