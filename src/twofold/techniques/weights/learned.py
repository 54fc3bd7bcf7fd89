"""Calibrated weight formats: the technique that keeps the matrices which calibration made, and the scheme
that gives them to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from twofold.models.weights import Matrix, WeightScheme
from twofold.techniques.base import Technique
from twofold.techniques.weights.counted import CountedMatrix


@dataclass(frozen=True)
class Calibrated(Technique):
    """A technique that reads a text before it stores the weights of a model; `calibration` is what it made of
    them."""

    @property
    def needs_calibration(self) -> bool:
        """Whether the text has not been read yet."""
        return self.calibration is None


class Learned:
    """Matrices by key, as `LearnedScheme.learned` names them, and vectors that replace those of the model;
    all others as `rest` stores them.

    counters: of `rest`, whose matrices and these count together.
    """

    def __init__(
        self,
        rest: WeightScheme,
        counters: dict[str, int],
        matrices: Mapping[str, CountedMatrix] | None = None,
        vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.rest, self.counters = rest, counters
        # A matrix belongs to one model, whose products it counts.
        self._matrices = {key: matrix.counted_by(counters) for key, matrix in (matrices or {}).items()}
        self._vectors = dict(vectors or {})

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Whether `rest` stores the matrix."""
        return self.rest.applies(name, out_features, in_features)

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> Matrix:
        """As `rest` packs it, which knows no text."""
        return self.rest.pack(weight, out_features, in_features)

    def learned(self, key: str) -> Matrix | None:
        """The matrix that was made for `key`."""
        return self._matrices.get(key)

    def vector(self, name: str) -> torch.Tensor | None:
        """The vector that replaces `name`."""
        return self._vectors.get(name)
