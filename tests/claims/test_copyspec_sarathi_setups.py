"""The ledger's setups of copyspec and sarathi: of the claimed direction, moved by what should move them."""

from __future__ import annotations

import pytest

from twofold.claims.setups import copyspec, sarathi
from twofold.techniques.base import Claim
from twofold.techniques.decoding.copyspec import CopySpec
from twofold.techniques.scheduling.sarathi import Sarathi


@pytest.mark.parametrize("claim", [*CopySpec.claims, *Sarathi.claims], ids=lambda claim: claim.key)
def test_every_claim_has_a_setup_or_a_reason(claim: Claim) -> None:
    if claim.setup is None:
        assert claim.why_not
    else:
        module, _, name = claim.setup.partition(":")
        assert callable(getattr({"copyspec": copyspec, "sarathi": sarathi}[module], name))


def test_drafts_that_are_never_right_gain_nothing() -> None:
    wrong = copyspec.Replay(300, 60, 0.5, 10.0, 0.0)
    assert 0.5 < copyspec.speedup("qwen2.5-7b", wrong) < 1.0
    right = wrong._replace(accepted=10.0)  # six tokens a step, but for the prompt and the wider steps
    assert 2.0 < copyspec.speedup("qwen2.5-7b", right) < copyspec.speedup("qwen2.5-7b", right, "bf16") < 6.0


def test_copyspec_outcomes_gain_as_claimed() -> None:
    for outcome in (copyspec.mt_redundant(), copyspec.gsm8k_third_turn()):
        low, high = outcome.ours
        assert 1.5 < low <= high < 6.0


def test_fp32_decoding_is_bound_by_reading_the_weights() -> None:
    short = copyspec.Replay(100, 2, 0.0, 0.0, 0.0)
    two, twelve = (
        copyspec.seconds("qwen2.5-7b", replay, drafts=False) for replay in (short, short._replace(output=12))
    )
    weights = 4 * 7.1e9  # the embedding (0.5e9 of 7.6e9) is not read whole
    assert (twelve - two) / 10 == pytest.approx(weights / (0.87 * 2039e9), rel=0.15)


def test_sarathi_gains_most_where_chunks_last_as_long_as_decodes() -> None:
    balanced = sarathi.Case("llama-13b", "a6000", 48, 6, 1024, 50.0)
    gains = sarathi.gains(balanced, rounds=6)
    assert gains.decode > 2.0
    assert 1.1 < gains.total < 1.5
    assert sarathi.gains(balanced._replace(ratio=10.0), rounds=6).total < gains.total - 0.05


@pytest.mark.long
def test_sarathi_leaves_hardly_a_bubble() -> None:
    (bubbles, _), (total, _) = sarathi.bubbles_gpt3().ours, sarathi.total_gpt3().ours
    assert bubbles > 3.0
    assert total > 1.3
