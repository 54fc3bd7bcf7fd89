"""FuseMax's comparison: the source's shapes, and that its figures are of the sizes it says."""

from __future__ import annotations

import pytest

from twofold.claims.setups.fusemax import BATCH, CLAIMS, LENGTHS, MODELS, attention, headline, layer, outcome
from twofold.devices.machines.flat import Flat
from twofold.devices.machines.fusemax import FuseMax
from twofold.ops import Linear
from twofold.techniques.base import Claim


def test_shapes() -> None:
    """Every query sees every key; a layer's products are those of its width."""
    assert (LENGTHS[0], LENGTHS[-1], len(LENGTHS)) == (1024, 1 << 20, 6)
    model, tokens = MODELS["XLM"], 4096
    assert attention(model, tokens).cost().flop == 4 * BATCH * tokens**2 * model.heads * model.head_dim
    products = [op for op in layer(model, tokens) if isinstance(op, Linear)]
    weights = sum(op.in_features * op.out_features for op in products)
    assert weights == 4 * model.hidden**2 + 2 * model.hidden * model.ffn
    assert sum(op.cost().flop for op in products) == 2 * BATCH * tokens * weights


def test_headline_is_the_first_claim() -> None:
    """The mean speedup; FLAT against itself gains nothing."""
    assert outcome(CLAIMS[0]).ours[0] == pytest.approx(headline(FuseMax()))
    assert headline(Flat()) == pytest.approx(1)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_outcomes_point_the_claimed_way(claim: Claim) -> None:
    """Faster at less energy, against either baseline."""

    ours = outcome(claim).ours
    assert ours[0] < 1 if "energy" in claim.key else ours[0] > 1
