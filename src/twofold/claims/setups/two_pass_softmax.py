"""Claims of arXiv:2001.04438: softmax of long rows on a Skylake-X processor.

The nearest machine of the catalogue is a server of the same generation with the same vectors; out of its
caches both algorithms are bound by memory, so that the ratio does not depend on which.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.attention_ops import op_seconds
from twofold.ops.schedules import RowSoftmax

_DEVICE, _COLUMNS = "xeon-6154", 1 << 26


def over_three_pass() -> Outcome:
    """Three passes over two, for one row of 2^26 numbers."""
    three, two = (op_seconds(_DEVICE, RowSoftmax(1, _COLUMNS, passes)) for passes in (3, 2))
    return Outcome(
        (three / two, three / two),
        "memory passes alone: three reads and a write against two reads and a write; what exponentials cost "
        "on the way is hidden behind them here, and not entirely there",
        "predicted: one row of 67,108,864 float32 on the roofline model of a Xeon Gold 6154, which does not "
        "tell AVX2 from AVX-512 where memory is the bound",
    )
