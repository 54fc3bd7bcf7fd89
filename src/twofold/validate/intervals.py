"""From residuals to the table of intervals, and how often intervals contain what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from twofold.devices.uncertainty import (
    Confidence,
    Quantity,
    Residuals,
    Spread,
    Standing,
    Table,
    Validated,
    spread,
)
from twofold.report.host import twofold_version
from twofold.validate.folds import Fold, by_quantity, folds_of, standing_of, usable
from twofold.validate.quantiles import LEVEL, bounds
from twofold.validate.sample import Sample
from twofold.validate.widening import widenings


def estimate(samples: Sequence[Sample]) -> Table:
    """The table of intervals that follows from `samples`; points that were fitted count only where a quantity
    has no others. ValueError without any sample."""
    folds = folds_of(samples)
    if not folds:
        raise ValueError(
            "no measurement was compared with a prediction: there are no residuals to learn from"
        )
    return _table(folds, _provenance(folds))


def contained(samples: Sequence[Sample], table: Table) -> list[bool | None]:
    """For each sample, whether the interval of its prediction contains the measurement; None where there is
    no interval."""
    known: dict[tuple[Quantity, Standing], Spread] = {}

    def inside(sample: Sample) -> bool | None:
        if sample.quantity == "memory" or not sample.has_interval:
            return None
        key = (sample.quantity, standing_of(sample))
        if key not in known:
            known[key] = spread(*key, table)
        return known[key].low <= sample.measured / sample.predicted <= known[key].high

    return [inside(sample) for sample in samples]


def cross_validated(samples: Sequence[Sample]) -> list[bool | None]:
    """As `contained`, for each sample with a table that was estimated without its fold; None also where
    nothing is left to estimate from."""
    folds = folds_of(samples)
    members: dict[tuple[str, str, str], list[int]] = {}
    for index, sample in enumerate(samples):
        members.setdefault(sample.fold, []).append(index)
    answers: list[bool | None] = [None] * len(samples)
    for name, indices in members.items():
        rest = [fold for fold in folds if fold.name != name]
        if rest:
            judged = contained([samples[i] for i in indices], _table(rest, "cross-validation"))
            for index, answer in zip(indices, judged, strict=True):
                answers[index] = answer
    return answers


def _table(folds: Sequence[Fold], source: str) -> Table:
    learned = usable(folds)
    residuals: dict[str, dict[Quantity, Residuals]] = {}
    for (label, quantity), found in by_quantity(learned).items():
        low, high = bounds([fold.residuals for fold in found])
        residuals.setdefault(label, {})[quantity] = Residuals(
            low=round(low, 4),
            high=round(high, 4),
            points=sum(fold.points for fold in found),
            folds=len({fold.name for fold in found}),
        )
    return Table(
        source=source,
        level=LEVEL,
        residuals=residuals,
        steps=widenings(learned),
        validated=_validated(folds),
    )


def _provenance(folds: Sequence[Fold]) -> str:
    groups = ", ".join(dict.fromkeys(fold.name[0] for fold in folds))
    today = datetime.now(UTC).date().isoformat()
    made = f"twofold validate --write-intervals, twofold {twofold_version()}, {today}"
    return f"{made}: {sum(fold.points for fold in folds)} points of {groups}"


def _validated(folds: Sequence[Fold]) -> list[Validated]:
    """What was compared, each with its largest sizes, in order of appearance."""
    places: dict[tuple[Confidence, Quantity, str, str, str, str], list[Fold]] = {}
    for f in folds:
        key = (f.label, f.quantity, f.kind, f.generation, f.device, f.precision)
        places.setdefault(key, []).append(f)
    return [
        Validated(
            label=label,
            quantity=quantity,
            kind=kind,
            generation=generation,
            device=device,
            precision=precision,
            tokens=max(float(f.tokens.max()) for f in found),
            context=max(float(f.context.max()) for f in found),
        )
        for (label, quantity, kind, generation, device, precision), found in places.items()
    ]
