"""Passes that a cascade of Einsums must take, and that the cascades compute what they say."""

from __future__ import annotations

import pytest

from twofold.devices.parts.einsum_passes import (
    ONE_PASS,
    THREE_PASS,
    TWO_PASS,
    accesses,
    kept,
    parse,
    pass_by_tensor,
    passes,
)


@pytest.mark.parametrize(("cascade", "number"), [(THREE_PASS, 3), (TWO_PASS, 2), (ONE_PASS, 1)])
def test_attention(cascade: str, number: int) -> None:
    """As FuseMax's section IV-E counts them over keys; queries are independent of each other."""
    assert passes(cascade, "m") == number
    assert passes(cascade, "p") == 1
    assert kept(cascade, "p") == ()


def test_what_each_pass_makes() -> None:
    """Cascade 4: scores and maximum, numerators and denominator, quotients and results."""
    assert pass_by_tensor(THREE_PASS, "m") == {"QK": 1, "GM": 1, "SN": 2, "SD": 2, "A": 3, "AV": 3}


def test_what_is_kept() -> None:
    """Whole rows of scores and numerators, corrected numerators alone, nothing."""
    assert kept(THREE_PASS, "m") == ("QK", "SN")
    assert kept(TWO_PASS, "m") == ("SLN",)
    assert kept(ONE_PASS, "m") == ()


def test_accesses() -> None:
    """QK, SN and A are written; QK and SN are read twice, A once."""
    assert accesses(THREE_PASS, "m") == 8


@pytest.mark.parametrize(
    ("cascade", "rank", "number"),
    [
        ("Y[z] = A[k] B[k]\nZ[z] = Y[z] A[k]", "k", 2),
        ("Y[z] = A[k] B[k]\nX[z] = A[k]\nZ[z] = Y[z] X[z]", "k", 1),
        ("RY[i+1] = RY[i] A[i] B[i]\nRZ[i+1] = RZ[i] RY[i+1] RY[i] A[i]\nZ[z] = RZ[I]", "i", 1),
        ("S[i+1] = S[i] A[i]\nZ[i] = A[i] S[I]", "i", 2),
        ("Z[m,n] = A[m,k] B[k,n]", "k", 1),
        (
            "X[m,k] = A[m] B[k]\nN[m] = X[m,k]\nY[m,k] = X[m,k] N[m]\nM[m] = Y[m,k]\nZ[m,k] = Y[m,k] M[m]",
            "k",
            3,
        ),
    ],
)
def test_small_cascades(cascade: str, rank: str, number: int) -> None:
    """The paper's cascades 1 to 3, and what follows from the rules: the end of a running sum is known after
    the pass that makes it; norms of norms take a pass each."""
    assert passes(cascade, rank) == number


def test_deferring_the_division_saves_a_pass() -> None:
    """The quotient of sums instead of the sum of quotients."""
    deferred = THREE_PASS.replace("A[m,p] = SN[m,p] / SD[p]\nAV[f,p] = A[m,p] V[f,m]", "")
    deferred += "NV[f,p] = SN[m,p] V[f,m]\nAV[f,p] = NV[f,p] / SD[p]"
    assert passes(deferred, "m") == 2
    assert kept(deferred, "m") == ("QK",)


def test_mistakes_are_refused() -> None:
    """A line that is no Einsum, a rank that is not there."""
    with pytest.raises(ValueError, match="'A of m' is not an Einsum"):
        parse("A of m")
    with pytest.raises(ValueError, match="not an Einsum"):
        parse("A[m] = 1")
    with pytest.raises(ValueError, match="no rank 'z'"):
        passes(THREE_PASS, "z")
