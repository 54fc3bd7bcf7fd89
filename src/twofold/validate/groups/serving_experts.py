"""Serving points of mixtures of experts, predicted as those of dense models are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twofold.measured.serving import PATTERN
from twofold.validate.group import Progress
from twofold.validate.groups.serving import samples_of, wanted
from twofold.validate.sample import Sample

__all__ = ["FILES", "NAME", "TITLE", "samples", "wanted"]

NAME = "serving-experts"
TITLE = "Serving mixtures of experts in a closed loop"
FILES = (PATTERN,)


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """TTFT and TPOT of every point that can be predicted (`serving` says why others are not)."""
    yield from samples_of(NAME, folder, progress, experts=True)
