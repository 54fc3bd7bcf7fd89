"""Writing what a validation found: the table of intervals into the package, points as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path

import yaml

from twofold.devices.uncertainty import FILE, Table
from twofold.validate.sample import Sample


def write_table(table: Table, path: Path | None = None) -> Path:
    """Write `table` to `path` (default: where predictions read it); returns the path. ValueError where that
    cannot be written."""
    target = path or Path(str(resources.files("twofold.devices") / "catalog" / "shared" / FILE))
    text = yaml.safe_dump(table.model_dump(), sort_keys=False, width=110, default_flow_style=None)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write the intervals to {target}: {error.strerror}") from None
    return target


def write_points(samples: Sequence[Sample], path: Path) -> None:
    """Write every sample with its error as a line of CSV."""
    names = [field.name for field in fields(Sample)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "error"])
        for sample in samples:
            writer.writerow([*(getattr(sample, name) for name in names), sample.error])
