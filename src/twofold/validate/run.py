"""Collecting samples: every group whose measurements are at hand, one process each, with what was left
out."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from twofold.errors import nearest
from twofold.validate.group import Group, Progress
from twofold.validate.sample import Sample

DATA = "TWOFOLD_DATA"
MEASURED = "measured"
_NOWHERE = Path(os.devnull)  # a folder that holds no file


@dataclass(slots=True)
class Collected:
    """What the groups yielded. absent: what would bring a group, by its name; left_out: how many measurements
    of a group were not predicted, by reason; failed: what went wrong, by group; unknown: files of the folder
    that no group reads; folder: where was looked."""

    folder: Path | None
    samples: list[Sample] = field(default_factory=list)
    absent: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unknown: list[Path] = field(default_factory=list)


def data_folder(given: Path | None) -> Path | None:
    """The folder of measurements: `given`, else $TWOFOLD_DATA, and its `measured` where there is one. None
    where neither is set; ValueError where it is no folder."""
    named = given or (Path(found) if (found := os.environ.get(DATA)) else None)
    if named is None:
        return None
    if not named.is_dir():
        raise ValueError(f"{named} is no folder; --data or {DATA} names a folder of measurements")
    inside = named / MEASURED
    return inside if inside.is_dir() else named


def choose(names: Iterable[str], groups: Sequence[Group]) -> list[Group]:
    """Those of `groups` with these names, all without any. ValueError for an unknown name, with the nearest
    one."""
    by_name = {group.NAME: group for group in groups}
    for name in names:
        if name not in by_name:
            raise ValueError(f"unknown group {name!r}; {nearest(name, by_name)}")
    return [by_name[name] for name in dict.fromkeys(names)] or list(groups)


def collect(
    folder: Path | None,
    chosen: Sequence[Group],
    *,
    known: Sequence[Group],
    workers: int | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Samples of the `chosen` groups with the files of `folder`; a group that fails is named and the others
    go on.

    known: all groups, by which a file is known or not. workers: processes (default: one per core and group).
    """
    at = folder or _NOWHERE
    found = Collected(folder)
    found.unknown = unknown_files(folder, known) if folder else []
    ready = []
    for group in chosen:
        if group.wanted(at):
            ready.append(group)
        else:
            found.absent[group.NAME] = tuple(group.FILES)
    outcomes: dict[str, _Outcome] = {}
    count = min(workers or os.cpu_count() or 1, len(ready))
    if count <= 1:
        for group in ready:
            outcomes[group.NAME] = _outcome(group, at, progress)
    else:
        # Forking a process whose libraries run threads may hang.
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            tasks = {pool.submit(_outcome_of, _module(group), at): group.NAME for group in ready}
            for done, task in enumerate(as_completed(tasks), 1):
                outcomes[tasks[task]] = task.result()
                if progress is not None:
                    progress("validating", done, len(tasks))
    for group in ready:
        outcome = outcomes[group.NAME]
        found.samples += outcome.samples
        if outcome.error:
            found.failed[group.NAME] = outcome.error
        if outcome.left_out:
            found.left_out[group.NAME] = outcome.left_out
    return found


def unknown_files(folder: Path, groups: Sequence[Group]) -> list[Path]:
    """Files of `folder` that no group reads, sorted."""
    read = {path.resolve() for group in groups for path in group.wanted(folder)}
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.resolve() not in read]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one group yielded."""

    samples: list[Sample]
    left_out: dict[str, int]
    error: str = ""


def _module(group: Group) -> str:
    """The name that a worker imports the group by."""
    return str(getattr(group, "__name__"))  # noqa: B009 - the protocol says nothing of modules


def _outcome_of(module: str, folder: Path) -> _Outcome:
    return _outcome(importlib.import_module(module), folder)


def _outcome(group: Group, folder: Path, progress: Progress | None = None) -> _Outcome:
    """The group's samples, or what went wrong."""
    try:
        samples = [_checked(sample) for sample in group.samples(folder, progress)]
        left_out = getattr(group, "left_out", None)
        return _Outcome(samples, left_out(folder) if left_out is not None else {})
    except Exception as error:  # whatever a group does wrong, the others are still worth having
        return _Outcome([], {}, f"{type(error).__name__}: {error}")


def _checked(sample: Sample) -> Sample:
    if not (sample.measured > 0 and sample.predicted > 0):
        raise ValueError(
            f"{sample.case}: {sample.quantity} measured {sample.measured}, predicted {sample.predicted}; "
            "both must be positive"
        )
    return sample
