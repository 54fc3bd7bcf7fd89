"""A page of tables and plots that needs nothing else, for everything that is no result or comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from twofold.report.grid import Grid
from twofold.report.host import twofold_version
from twofold.report.html import make_environment
from twofold.report.pictures import Picture


def render(title: str, subtitle: str, grids: Sequence[Grid], pictures: Sequence[Picture]) -> str:
    """A complete HTML page."""
    return (
        make_environment()
        .get_template("page.html")
        .render(
            title=title,
            subtitle=subtitle,
            grids=grids,
            pictures=[picture._replace(svg=Markup(picture.svg)) for picture in pictures],
            version=twofold_version(),
        )
    )


def write(path: Path, title: str, subtitle: str, grids: Sequence[Grid], pictures: Sequence[Picture]) -> None:
    """Write the page to `path`; ValueError if that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(title, subtitle, grids, pictures), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write the report to {path}: {error.strerror}") from error
