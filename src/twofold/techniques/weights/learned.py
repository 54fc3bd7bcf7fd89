"""The scheme of calibrated weight formats: matrices that were made while calibrating, and how those are made
that were not."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from twofold.models.weights import Matrix, WeightScheme


class Learned:
    """Matrices by key, as `LearnedScheme.learned` names them, and vectors that replace those of the model;
    all others as `rest` stores them.

    counters: of `rest`, whose matrices and these count together.
    """

    def __init__(
        self,
        rest: WeightScheme,
        counters: dict[str, int],
        matrices: Mapping[str, Matrix] | None = None,
        vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.rest, self.counters = rest, counters
        self._matrices, self._vectors = dict(matrices or {}), dict(vectors or {})

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Whether `rest` stores the matrix."""
        return self.rest.applies(name, out_features, in_features)

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> Matrix:
        """As `rest` does, without data."""
        return self.rest.pack(weight, out_features, in_features)

    def learned(self, key: str) -> Matrix | None:
        """The matrix that was made for `key`."""
        return self._matrices.get(key)

    def vector(self, name: str) -> torch.Tensor | None:
        """The vector that replaces `name`."""
        return self._vectors.get(name)
