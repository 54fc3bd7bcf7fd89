"""The claims of GemFilter and LLM-Drop are set up, and come out within what arithmetic allows."""

from __future__ import annotations

import pytest

from twofold.claims.ledger import resolve
from twofold.models.catalog import get_spec
from twofold.techniques.attention.gemfilter import GemFilter
from twofold.techniques.layers.llm_drop import LlmDrop


@pytest.mark.parametrize("technique", [GemFilter, LlmDrop])
def test_every_claim_has_a_setup_that_runs_or_a_reason(technique: type[GemFilter] | type[LlmDrop]) -> None:
    for claim in technique.claims:
        assert (claim.setup is None) == bool(claim.why_not)
        if claim.setup is not None:
            outcome = resolve(technique.info.name, claim)
            assert outcome.why
            assert outcome.how.startswith(("predicted", "counted"))


def ours(technique: type[GemFilter] | type[LlmDrop], key: str) -> tuple[float, float]:
    claim = next(c for c in technique.claims if c.key == key)
    return resolve(technique.info.name, claim).ours


def test_gemfilter_saves_less_than_all_it_leaves_out() -> None:
    low, high = ours(GemFilter, "speedup-over-full-attention")
    # The layers that read the whole prompt are 13 of 32, whatever a layer costs.
    assert 1.5 < low <= high < 32 / 13
    low, high = ours(GemFilter, "memory-under-full-attention")
    assert 0.2 < low < high < 1


def test_llm_drop_saves_less_than_its_share_of_a_layer() -> None:
    # Half of the attention sublayers at most: 1 / (1 - share / 2), where share is attention's part of the
    # bytes read.
    for name, setup, max_share in (
        ("llama-2-70b", "speedup-llama-2-70b", 0.5),
        ("llama-2-13b", "speedup-llama-2-13b", 0.7),
    ):
        spec = get_spec(name)
        weights = spec.attention_parameters() / (spec.attention_parameters() + spec.mlp_parameters(0))
        low, high = ours(LlmDrop, setup)
        assert 1 / (1 - 0.9 * weights / 2) < low <= high < 1 / (1 - max_share / 2)
    assert ours(LlmDrop, "kv-cache-llama-2-70b") == (0.5, 0.5)
