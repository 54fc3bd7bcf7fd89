"""The ledger's setups of copyspec and sarathi: of the claimed direction, and moved by what should move them."""

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


def test_sarathi_gains_are_bounded_by_the_share_of_decodes() -> None:
    case = sarathi.Case("llama-13b", "a6000", 48, 6, 1024, 50.0)
    gains = sarathi.gains(case, rounds=4)
    assert gains.decode > 2.0
    assert 1.1 < gains.total < 1.5
    # Nearly all time goes into prompts: nothing much to be gained.
    assert gains.total > sarathi.gains(case._replace(ratio=200.0), rounds=4).total


@pytest.mark.long
def test_sarathi_leaves_hardly_a_bubble() -> None:
    (bubbles, _), (total, _) = sarathi.bubbles_gpt3().ours, sarathi.total_gpt3().ours
    assert bubbles > 3.0
    assert total > 1.3
