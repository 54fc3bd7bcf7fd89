"""Collecting: what is at hand is compared, what is not is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.validate.samples import sample

from twofold.validate.groups import GROUPS
from twofold.validate.run import choose, collect, data_folder, unknown_files
from twofold.validate.sample import Sample


class Made:
    """A group that reads one file, or raises, or predicts nonsense."""

    def __init__(self, name: str, *, error: Exception | None = None, predicted: float = 1.1) -> None:
        self.NAME = name
        self.TITLE = name.title()
        self.FILES = (f"{name}-*.csv",)
        self.error = error
        self.predicted = predicted

    def wanted(self, folder: Path) -> list[Path]:
        return sorted(folder.glob(self.FILES[0]))

    def samples(self, folder: Path, progress: Any = None) -> Iterator[Sample]:
        if self.error is not None:
            raise self.error
        for path in self.wanted(folder):
            yield sample(1.0, self.predicted, group=self.NAME, case=path.name)


class Choosy(Made):
    """A group that cannot predict everything it reads."""

    def left_out(self, folder: Path) -> dict[str, int]:
        return {"too exotic": len(self.wanted(folder))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("good-1.csv", "good-2.csv", "bad-1.csv", "choosy-1.csv", "stranger.csv"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    return tmp_path


def test_a_group_that_raises_is_named_and_the_others_run(folder: Path) -> None:
    groups = [Made("bad", error=KeyError("ms")), Made("good"), Made("absent")]
    found = collect(folder, groups, known=groups, workers=1)
    assert [s.case for s in found.samples] == ["good-1.csv", "good-2.csv"]
    assert found.failed == {"bad": "KeyError: 'ms'"}
    assert found.absent == {"absent": ("absent-*.csv",)}


def test_unknown_files_are_listed(folder: Path) -> None:
    groups = [Made("good"), Made("bad"), Made("choosy")]
    assert [p.name for p in unknown_files(folder, groups)] == ["stranger.csv"]
    assert collect(folder, groups[:1], known=groups, workers=1).unknown == [folder / "stranger.csv"]


def test_what_a_group_leaves_out_is_said(folder: Path) -> None:
    found = collect(folder, [Choosy("choosy")], known=[], workers=1)
    assert found.left_out == {"choosy": {"too exotic": 1}}


def test_nonsense_is_refused(folder: Path) -> None:
    found = collect(folder, [Made("good", predicted=float("nan"))], known=[], workers=1)
    assert found.samples == []
    assert "both must be positive" in found.failed["good"]


def test_without_a_folder_every_group_of_files_is_absent() -> None:
    found = collect(None, [Made("good")], known=[], workers=1)
    assert found.absent == {"good": ("good-*.csv",)}


def test_the_folder_is_the_option_or_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWOFOLD_DATA", raising=False)
    assert data_folder(None) is None
    monkeypatch.setenv("TWOFOLD_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path
    (tmp_path / "measured").mkdir()
    assert data_folder(None) == tmp_path / "measured"
    with pytest.raises(ValueError, match="is no folder"):
        data_folder(tmp_path / "nowhere")


def test_groups_are_chosen_by_name() -> None:
    groups = [Made("good"), Made("bad")]
    assert choose((), groups) == groups
    assert choose(("bad", "bad"), groups) == groups[1:]
    with pytest.raises(ValueError, match="did you mean 'good'"):
        choose(("goood",), groups)


def test_every_group_says_what_it_is(tmp_path: Path) -> None:
    assert len({group.NAME for group in GROUPS}) == len(GROUPS)
    for group in GROUPS:
        assert group.TITLE
        assert all(path.exists() for path in group.wanted(tmp_path))
