"""The claims' setups count what they say they count, and fill the device exactly."""

from __future__ import annotations

import pytest

from twofold.claims.ledger import Claims, build_ledger
from twofold.claims.setups import kivi
from twofold.techniques.cache.kivi import Kivi

FP16 = 32 * 2 * 4096 * 2
"""Bytes of one token's keys and values in Llama-2-7B."""


@pytest.mark.parametrize("residual", kivi._RESIDUALS)
def test_memory_is_three_bits_a_number_and_the_windows(residual: int) -> None:
    side = kivi._side(kivi._kivi(residual))
    # 499 tokens take 16 blocks of 32; two bits and a 32nd of four bytes are three bits a number.
    per_request = 512 * FP16 * 3 // 16 + residual * FP16
    logits = 32_000 * 4
    assert side.held(11) - side.held(10) == per_request + logits


def test_the_baseline_holds_sixteen_bits() -> None:
    side = kivi._side(kivi._BASELINE)
    assert side.block_size == 16
    assert side.held(11) - side.held(10) == 512 * FP16 + 32_000 * 4


@pytest.mark.parametrize("uses", [kivi._BASELINE, *map(kivi._kivi, kivi._RESIDUALS)])
def test_the_largest_batch_is_the_largest(uses: tuple[str, ...]) -> None:
    side = kivi._side(uses)
    batch = side.largest_batch()
    assert side.held(batch) <= side.capacity == 80 * 2**30 < side.held(batch + 1)


@pytest.mark.long
def test_every_claim_can_be_set_up() -> None:
    rows = build_ledger([Claims("kivi", "technique", Kivi.claims)])
    assert {row.verdict for row in rows} <= {"reproduced", "direction"}
    assert all(row.ours is not None for row in rows)


def test_what_a_step_copies() -> None:
    assert kivi._copied(None, 300) == 300 * FP16  # all of it, for one entry more
    # 300 tokens at residual 128: 44 keys and 2 × 128 values in full, 172 packed values in every step, and 256
    # packed keys in one of 128.
    packed = (172 + 256 / 128) * 3 / 16
    assert kivi._copied(128, 300) == pytest.approx((44 + 2 * 128 + packed) * FP16 / 2)
