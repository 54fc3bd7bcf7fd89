"""A GOBO-like array: weights in 3 bits and a dictionary, a few outliers apart, products in 16-bit floats.

Source: Zadeh et al., "GOBO: Quantizing Attention-Based NLP Models for Low Latency and Energy Efficient
Inference" (arXiv:2005.03842): 99.9 % of the weights are 3-bit indices into a dictionary, the others stay in
32 bits. Here a dictionary at each column turns indices of up to 3 bits into floats on their way into the
array, which is how OliVe (arXiv:2304.07493) counts it: GOBO quantises weights alone and multiplies floats.
GOBO's own elements, which add up activations by index and multiply once for each dictionary entry, are left
out. The array has the area of OliVe's.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.devices.array_figures import FAMILY_SOURCES, ArrayFigures
from twofold.devices.machines.fp16_array import Fp16Array
from twofold.ops import Linear
from twofold.ops.formats import get_format

_INDEX_BITS = 3
_OUTLIER_BYTES = 4 + 4  # a value in 32 bits, and where it belongs

SOURCES = FAMILY_SOURCES | {
    "node": "arXiv:2304.07493: 22 nm, as OliVe",
    "rows, columns": "derived: as many elements as fit the area of olive's array (held by a test)",
    "outliers": "arXiv:2005.03842, abstract: typically 99.9 % of the weights are in 3 bits",
}


@dataclass(frozen=True, slots=True)
class GoboFigures(ArrayFigures):
    """outliers: share of the weights that stay in 32 bits."""

    outliers: float = 0.001

    def __post_init__(self) -> None:
        # Named, since slots make a class of its own that super() does not know.
        ArrayFigures.__post_init__(self)
        if not 0 <= self.outliers <= 1:
            raise ValueError(f"gobo: outliers must be a share, not {self.outliers}")


class Gobo(Fp16Array):
    """The modelled machine."""

    name = "gobo"
    title = "A GOBO-like array: 3-bit dictionary weights, outliers apart, 16-bit products"
    source = "GOBO, arXiv:2005.03842, as OliVe's baseline, arXiv:2304.07493"
    sources = SOURCES
    usual = GoboFigures(node=22, rows=32, columns=26, lanes=26)

    figures: GoboFigures

    def stored_bytes(self, op: Linear) -> float:
        """Indices, and the outliers with their places."""
        if not self._indexed(op):
            return op.weight_bytes
        weights = op.depth * op.out_features
        return op.weight_bytes + self.figures.outliers * weights * _OUTLIER_BYTES

    def around(self, op: Linear) -> int:
        """Nothing for indices: a dictionary at each column widens them."""
        return 0 if self._indexed(op) else op.vector_flop

    @staticmethod
    def _indexed(op: Linear) -> bool:
        return get_format(op.format).bits <= _INDEX_BITS


MACHINE = Gobo
