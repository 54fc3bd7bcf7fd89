"""Matrices that count the products with them."""

from __future__ import annotations

from copy import copy
from dataclasses import fields
from typing import Any, Self, TypeVar

from twofold.models.weights import Matrix
from twofold.ops.base import Precision
from twofold.ops.linear import Linear

_Kind = TypeVar("_Kind", bound=Linear)


class CountedMatrix(Matrix):
    """Base of the matrices of weight formats. counters: "products": how often one was multiplied; shared by
    the matrices of a model."""

    counters: dict[str, int]

    def counted_by(self, counters: dict[str, int]) -> Self:
        """The same matrix, in the same memory, for a model whose products are counted in `counters`."""
        mine = copy(self)
        mine.counters = counters
        return mine

    def op(self, tokens: int, activations: Precision) -> Linear:
        """The op that multiplies `tokens` rows by this matrix; counted."""
        self.counters["products"] += 1
        return super().op(tokens, activations)


def in_place_of(plain: Linear, kind: type[_Kind], **own: Any) -> _Kind:
    """An op of `kind` for the product that `plain` computes, with fields of its own, or other values."""
    shared = {field.name: getattr(plain, field.name) for field in fields(Linear)}
    return kind(**{**shared, **own})
