"""Claims of arXiv:2502.01770 on custom hardware: the area and the power that binary attention saves.

The source simulates a datapath of its own; here both are counted from the arithmetic units that they
need, at the areas and energies of the public table for 45 nm, for a head of 64 dimensions and 30 entries
kept of 256. A unit that scores an entry and one that adds its value up take an entry per cycle. Memories
and the softmax, which both have, are left out.
"""

from __future__ import annotations

from typing import NamedTuple

from twofold.claims.ledger import Outcome

_DIM = 64
_KEPT = 30 / 256
_TABLE = (
    "M. Horowitz, Computing's energy problem (ISSCC 2014), and W. Dally, High-performance hardware for "
    "machine learning (NIPS 2015): 45 nm"
)


class _Unit(NamedTuple):
    """An arithmetic unit: square micrometres, picojoules per operation."""

    area: float
    energy: float

    def times(self, count: float) -> _Unit:
        """As many of them."""
        return _Unit(self.area * count, self.energy * count)


_ADD, _MULTIPLY, _ADD_8 = _Unit(1360.0, 0.4), _Unit(1640.0, 1.1), _Unit(36.0, 0.03)
"""An addition and a multiplication in fp16, an addition of 8-bit integers."""

_PRODUCT = _Unit(_ADD.area + _MULTIPLY.area, _ADD.energy + _MULTIPLY.energy).times(_DIM)
"""Scores an entry, or adds its value up, in fp16."""

_DISTANCE = _ADD_8.times(1 / 8).times(2 * _DIM)
"""An exclusive or of each bit, and the full adders that count them; an exclusive or is taken to be as
large as one."""


def area() -> Outcome:
    """Share of the area saved at equal throughput: the unit for values shrinks to what of it is used."""
    standard = 2 * _PRODUCT.area
    whole, cut = (1 - (_DISTANCE.area + share * _PRODUCT.area) / standard for share in (1.0, _KEPT))
    return Outcome(
        (cut, cut),
        f"scoring an entry shrinks from {_PRODUCT.area:.0f} to {_DISTANCE.area:.0f} um2, next to "
        f"nothing; values of 12 % of the entries need 12 % of a unit, as large as before it would leave "
        f"{whole:.2f}; memories, the softmax and the choice of the nearest, which the source's figure "
        "includes, are left out",
        f"counted: {_TABLE}; head of {_DIM}",
    )


def power() -> Outcome:
    """Share of the energy per query saved, at equal throughput that of the power."""
    standard = 2 * _PRODUCT.energy
    saved = 1 - (_DISTANCE.energy + _KEPT * _PRODUCT.energy) / standard
    return Outcome(
        (saved, saved),
        "nearly all of the arithmetic of scores and 88 % of that of values; memories, the softmax and the "
        "choice of the nearest, which the source's figure includes, are left out",
        f"counted: {_TABLE}; head of {_DIM}",
    )
