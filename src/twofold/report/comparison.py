"""A comparison: the baseline, each technique alone, and combinations; measured here, predicted here and
elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import median
from typing import Any

from pydantic import Field, computed_field, model_validator

from twofold.report.host import twofold_version
from twofold.report.schema import Figure, Load, Record, Result
from twofold.report.tradeoff import Contender, Tradeoff, Trial, tradeoffs

# Figures for which a prediction is held against the measurement.
CHECKED = ("ttft", "tpot", "e2e", "tokens_per_s")


class Row(Record):
    """One plan of a comparison.

    refused: why this combination cannot run at all; failed: what went wrong where it should have run (either
    way it has no results). beside: the baseline as it was measured in turn with this row, where it was: what
    ratios of speed are to. refused_here: why it could not be predicted for this machine. refused_elsewhere:
    by device, why that device cannot take it. predicted_elsewhere: predictions by device name, under the same
    load. trials: predictions at other places and loads.
    """

    label: str
    measured: Result | None = None
    beside: Result | None = None
    predicted_here: Result | None = None
    predicted_elsewhere: dict[str, Result] = Field(default_factory=dict)
    refused: str | None = None
    failed: str | None = None
    refused_here: str | None = None
    refused_elsewhere: dict[str, str] = Field(default_factory=dict)
    trials: list[Trial] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _recompute(cls, data: Any) -> Any:
        # `errors` is written for readers of the JSON and follows from the rest.
        return {k: v for k, v in data.items() if k != "errors"} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if self.without_results and (self.measured or self.predicted_here or self.predicted_elsewhere):
            word = "refused" if self.failed is None else "failed"
            raise ValueError(f"row {self.label!r} is {word} and has results all the same")
        both = sorted(set(self.predicted_elsewhere) & set(self.refused_elsewhere))
        if both:
            raise ValueError(f"row {self.label!r} is predicted and refused on {', '.join(both)}")
        return self

    @property
    def without_results(self) -> str | None:
        """Why there are no results, as one sentence; None where there are."""
        if self.refused is not None:
            return f"refused: {self.refused}"
        return None if self.failed is None else f"failed: {self.failed}"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def errors(self) -> dict[str, float]:
        """Relative error of the prediction for this machine, by figure: predicted / measured − 1."""
        errors = {}
        for name in CHECKED:
            measured, predicted = self._pair(name)
            if measured is not None and predicted is not None and measured.mid:
                errors[name] = predicted.mid / measured.mid - 1
        return errors

    def _pair(self, name: str) -> tuple[Figure | None, Figure | None]:
        return (
            self.measured.figure(name) if self.measured else None,
            self.predicted_here.figure(name) if self.predicted_here else None,
        )


class Comparison(Record):
    """A baseline and the rows that are held against it, all on one model and one workload."""

    title: str
    model: str
    device: str
    workload: Load
    baseline: Row
    rows: list[Row] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    twofold_version: str = Field(default_factory=twofold_version)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="before")
    @classmethod
    def _recompute(cls, data: Any) -> Any:
        # `tradeoffs` is written for readers of the JSON and follows from the rest.
        return {k: v for k, v in data.items() if k != "tradeoffs"} if isinstance(data, dict) else data

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tradeoffs(self) -> list[Tradeoff]:
        """Every row with results on this machine over the baseline, which comes first: as measured, or as
        predicted where the baseline was not measured. Empty where the baseline has no result."""
        measured = self.baseline.measured is not None
        found = [(row, row.measured if measured else row.predicted_here) for row in self.all_rows]
        base = found[0][1]
        if base is None:
            return []
        rows = [
            Contender(row.label, result, row.beside if measured else None, self.trials_of(row))
            for row, result in found[1:]
            if result is not None
        ]
        return tradeoffs(base, rows, self.baseline.label)

    def trials_of(self, row: Row) -> list[Trial]:
        """Where else `row` was tried: on the other devices under the same load, then its own trials."""
        base = self.baseline
        found = []
        for device in self.devices:
            ours = row.predicted_elsewhere.get(device) or row.refused_elsewhere.get(device)
            theirs = base.predicted_elsewhere.get(device) or base.refused_elsewhere.get(device)
            if ours is not None and theirs is not None:
                found.append(Trial.between(ours, theirs, device, self.model, self.workload.summary))
        return [*found, *row.trials]

    @property
    def all_rows(self) -> list[Row]:
        """The baseline, then the others."""
        return [self.baseline, *self.rows]

    @property
    def devices(self) -> list[str]:
        """Names of the other devices, in the order in which they first appear."""
        names: dict[str, None] = {}
        for row in self.all_rows:
            names.update(dict.fromkeys([*row.predicted_elsewhere, *row.refused_elsewhere]))
        return list(names)

    @property
    def results(self) -> list[Result]:
        """Every measurement and prediction in the comparison."""
        found = []
        for row in self.all_rows:
            found += [r for r in (row.measured, row.predicted_here) if r is not None]
            found += row.predicted_elsewhere.values()
        return found

    def median_error(self, name: str) -> float | None:
        """Median over rows of the absolute relative error of figure `name`; None where no row has both."""
        errors = [abs(row.errors[name]) for row in self.all_rows if name in row.errors]
        return median(errors) if errors else None

    @classmethod
    def single(cls, result: Result) -> Comparison:
        """A comparison with one row, so that one result is plotted in the same way."""
        row = (
            Row(label=result.label, measured=result)
            if result.kind == "run"
            else Row(label=result.label, predicted_here=result)
        )
        return cls(
            title=result.label,
            model=result.model,
            device=result.device,
            workload=result.workload,
            baseline=row,
            twofold_version=result.twofold_version,
            created=result.created,
        )
