"""Residuals in folds: what one model on one device in one group and precision was off by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np

from twofold.devices import catalog
from twofold.devices.registry import is_machine, machine_class
from twofold.devices.uncertainty import NOT_VALIDATED, Confidence, Quantity, Standing, same_precision
from twofold.validate.quantiles import Array
from twofold.validate.sample import Sample

_KEPT = 400  # points per fold that quantiles are taken from: its own quantiles, where it has more


@dataclass(frozen=True, slots=True)
class Fold:
    """The residuals of one group, device, model and precision, with the sizes of their cases (0 where
    unknown).

    name: what is left out together in cross-validation; points: how many there were, of which the arrays hold
    an even choice.
    """

    label: Confidence
    quantity: Quantity
    kind: str
    generation: str
    device: str
    precision: str
    fitted: bool
    name: tuple[str, str, str]
    points: int
    residuals: Array
    tokens: Array
    context: Array


def folds_of(samples: Sequence[Sample]) -> list[Fold]:
    """The samples in folds, in order of appearance; those without an interval are left out."""
    parts: dict[tuple[object, ...], list[Sample]] = {}
    for s in samples:
        if s.has_interval:
            parts.setdefault((s.label, s.quantity, s.precision, s.fitted, s.fold), []).append(s)
    return [_fold(found) for found in parts.values()]


def usable(folds: Sequence[Fold]) -> list[Fold]:
    """The folds to learn from: fitted points only for a label and quantity that has no others."""
    free = {(fold.label, fold.quantity) for fold in folds if not fold.fitted}
    return [fold for fold in folds if not fold.fitted or (fold.label, fold.quantity) not in free]


def by_quantity(folds: Sequence[Fold]) -> dict[tuple[Confidence, Quantity], list[Fold]]:
    """The folds of every label and quantity."""
    found: dict[tuple[Confidence, Quantity], list[Fold]] = {}
    for fold in folds:
        found.setdefault((fold.label, fold.quantity), []).append(fold)
    return found


def standing_of(sample: Sample) -> Standing:
    """Where the prediction of a sample stands."""
    return Standing(
        _label(sample),
        kind_of(sample.device),
        sample.generation,
        sample.device,
        same_precision(sample.precision),
        sample.tokens or 0.0,
        sample.context or 0.0,
    )


@cache
def kind_of(device: str) -> str:
    """What kind of machine `device` is: "gpu", "cpu", "pim" …; "unknown" where no file says so."""
    if device == catalog.THIS_CPU:
        return "cpu"
    if is_machine(device):
        return machine_class(device).kind
    try:
        return catalog.get_device(device).kind
    except ValueError:
        return "unknown"


def _label(sample: Sample) -> Confidence:
    """Whose residual it is. What was not validated is a datasheet's, until now."""
    return "datasheet" if sample.label == NOT_VALIDATED else cast(Confidence, sample.label)


def _fold(samples: Sequence[Sample]) -> Fold:
    first = samples[0]
    standing = standing_of(first)
    ordered = sorted(samples, key=lambda s: s.residual)
    if len(ordered) > _KEPT:
        chosen = np.linspace(0, len(ordered) - 1, _KEPT).round().astype(int)
        ordered = [ordered[index] for index in chosen]
    return Fold(
        standing.label,
        cast(Quantity, first.quantity),
        standing.kind,
        standing.generation,
        standing.device,
        standing.precision,
        first.fitted,
        first.fold,
        len(samples),
        np.array([s.residual for s in ordered]),
        np.array([s.tokens or 0.0 for s in ordered]),
        np.array([s.context or 0.0 for s in ordered]),
    )
