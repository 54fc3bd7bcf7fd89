"""Setups of the tools' claims."""

from __future__ import annotations

import pytest

from twofold.claims.collect import all_claims
from twofold.claims.ledger import build_ledger
from twofold.claims.setups.io_attention import slope


def test_slope_finds_exponents() -> None:
    assert slope(lambda x: 7 * x**3, [2, 4, 8, 64]) == pytest.approx(3)


@pytest.mark.parametrize(("system", "reproduced"), [("longctx", 4), ("io-attention", 4)])
def test_ledger_rows(system: str, reproduced: int) -> None:
    rows = build_ledger(all_claims(system))
    assert all(row.ours is not None and row.kind == "tool" for row in rows)
    assert sum(row.verdict == "reproduced" for row in rows) >= reproduced
    assert not any(row.verdict == "not reproduced" for row in rows)
