"""The documentation repeats the code and stored measurements, and nothing else between its marks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.report.examples import comparison

from twofold.jobs import docs, docs_sections

PAGES = [docs.ROOT / "README.md", *sorted((docs.ROOT / "docs").glob("*.md"))]
FROM_CODE = ("techniques", "seams", "pairs", "models", "devices", "machines", "api", "metrics")


def marked(page: Path) -> dict[str, str]:
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- begin ([\w-]+) -->\n(.*?)\n?<!-- end \1 -->", text, re.S))


def test_every_section_is_made_and_every_maker_has_a_place() -> None:
    named = {name for page in PAGES for name in marked(page)}
    assert named == set(docs.sections(docs.ROOT / "docs"))


@pytest.mark.parametrize("name", FROM_CODE)
def test_the_pages_say_what_the_code_says(name: str) -> None:
    said = [found[name] for page in PAGES if name in (found := marked(page))]
    assert said
    made = docs.sections(docs.ROOT / "docs")[name]().strip()
    assert set(said) == {made}, f"the section {name!r} is stale; run: make docs"


def test_what_nothing_is_stored_for_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin a -->\nkept\n<!-- end a -->\n<!-- begin b -->\nold\n<!-- end b -->\n")
    assert docs.rewrite(page, {"a": lambda: "", "b": lambda: "new"})
    assert (
        page.read_text() == "<!-- begin a -->\nkept\n<!-- end a -->\n<!-- begin b -->\nnew\n<!-- end b -->\n"
    )
    with pytest.raises(ValueError, match="nobody makes the section 'a'; there are b"):
        docs.rewrite(page, {"b": lambda: "new"})


def test_a_stored_comparison_becomes_tables_and_a_picture(tmp_path: Path) -> None:
    stored, picture = tmp_path / "comparison.json", tmp_path / "comparison.svg"
    assert docs_sections.comparison(stored, picture) == docs_sections.glance(stored) == ""
    stored.write_text(comparison().model_dump_json())
    assert "**Quality against bytes and speed**" in docs_sections.comparison(stored, picture)
    assert picture.read_text().startswith("<svg")
    assert "**At a glance**" in docs_sections.glance(stored)
    assert "Example CPU (2 cores)" in docs_sections.glance(stored)
