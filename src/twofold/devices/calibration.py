"""What a calibration measured, as a device file holds it: curves by kernel, in SI units."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, model_validator

from twofold.devices.figures import Strict
from twofold.ops.attention import Attention
from twofold.ops.base import Cost, Op
from twofold.ops.linear import ExpertMLP, Linear

Points = list[tuple[float, float]]
"""(x, y) in ascending x, all positive; straight lines between them on logarithmic scales."""


class KindCurve(Strict):
    """Ops that pass over their operands once. call: seconds of one on a single token; rate: (bytes moved,
    bytes/s)."""

    call: float = Field(ge=0)
    rate: Points


class ProductCurve(Strict):
    """Products with matrices of about `size` weights that are at hand.

    rate: (rows of activations, FLOP/s).
    """

    size: float = Field(gt=0)
    rate: Points


class AttentionCurve(Strict):
    """Attention over a cache of one format.

    call: seconds per op; sequence: seconds per sequence besides; read: (bytes of weights and cache that a
    step goes through, bytes/s of the cache) for sequences with one query; widen: seconds per elementwise
    operation on stored entries, where some are packed and some are not (0: all are alike, and `read` has it);
    queries: (queries of a sequence, FLOP/s) for those with more; gathers: whether it first copies what it
    reads, so that both passes take their time.
    """

    call: float = Field(ge=0)
    sequence: float = Field(default=0.0, ge=0)
    widen: float = Field(default=0.0, ge=0)
    read: Points
    queries: Points
    gathers: bool = False


class OpCost(Strict):
    """Seconds of an op as a sum over what it counts: call: of one execution; sequence: for each sequence of
    a batch; flop, elementwise, byte: for each matrix FLOP, elementwise operation and byte moved."""

    call: float = Field(default=0.0, ge=0)
    sequence: float = Field(default=0.0, ge=0)
    flop: float = Field(default=0.0, ge=0)
    elementwise: float = Field(default=0.0, ge=0)
    byte: float = Field(default=0.0, ge=0)

    @staticmethod
    def counts(op: Op, cost: Cost) -> tuple[float, ...]:
        """What the factors are multiplied by, in their order."""
        seqs = op.totals.num_seqs if isinstance(op, Attention) else 0
        return 1.0, float(seqs), cost.flop, cost.vector_flop, cost.bytes_moved

    def seconds(self, op: Op, cost: Cost) -> tuple[float, str]:
        """Seconds of `op`, and what most of them are spent on."""
        calls, seqs, flop, elements, moved = self.counts(op, cost)
        parts = {
            "overhead": calls * self.call + seqs * self.sequence,
            "compute": flop * self.flop + elements * self.elementwise,
            "memory": moved * self.byte,
        }
        return sum(parts.values()), max(parts, key=parts.__getitem__)


def own_name(op: Op) -> str:
    """The name under which the cost of a technique's op is kept: its type, and how it stores entries."""
    stored = getattr(op, "format", "")
    return f"{type(op).__name__}:{stored}" if stored else type(op).__name__


def product_name(op: Linear | ExpertMLP) -> str:
    """The name under which the rates of a product are kept: "format:precision", and before that its type
    where its kernel is another one than that of matrices in this format."""
    plain = isinstance(op, ExpertMLP) or type(op) is Linear
    return f"{'' if plain else type(op).__name__ + '/'}{op.format.partition('+')[0]}:{op.compute}"


class Curves(Strict):
    """Rates of one processor.

    read: (working set in bytes, bytes/s) of weights; products: by `product_name`, in ascending size; call:
    seconds per product; exposed: share of the shorter of computing and streaming that the longer does not
    hide; attention: by format of the cache ("": as activations are); kinds: all other ops by kind; sequence:
    seconds of host work per sequence of a step; unrecorded: seconds that an op takes besides in steps too
    long to be replayed from a recording; own: ops that techniques bring with them, by `own_name`.
    """

    source: str
    read: Points
    products: dict[str, list[ProductCurve]]
    call: float = Field(ge=0)
    exposed: float = Field(ge=0, le=1)
    attention: dict[str, AttentionCurve]
    kinds: dict[str, KindCurve]
    sequence: float = Field(ge=0)
    unrecorded: float = Field(ge=0)
    own: dict[str, OpCost] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Curves:
        curves = {"read": self.read}
        for name, sizes in self.products.items():
            curves[f"products.{name}"] = [(c.size, c.rate[-1][1]) for c in sizes]
            curves |= {f"products.{name} of {c.size:g} weights": c.rate for c in sizes}
        for name, found in self.attention.items():
            curves |= {f"attention.{name}.queries": found.queries, f"attention.{name}.read": found.read}
        curves |= {f"kinds.{name}": kind.rate for name, kind in self.kinds.items()}
        for name, points in curves.items():
            if not points or any(a[0] >= b[0] for a, b in pairwise(points)):
                raise ValueError(f"curve {name!r} needs points in ascending order")
            if any(x <= 0 or y <= 0 for x, y in points):
                raise ValueError(f"curve {name!r} holds a value that is not positive")
        return self
