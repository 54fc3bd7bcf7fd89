"""The HTML report: self-contained, valid, complete, and safe with odd names."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.report.examples import comparison, result

from twofold.report import html
from twofold.report.bars import Bar, Group, stacked
from twofold.report.comparison import Comparison, Row
from twofold.report.pictures import pictures
from twofold.report.plots import Point
from twofold.report.roofline import roofline
from twofold.report.schema import Figure, Result

TITLES = [
    "Speed against quality",
    "Bytes against quality",
    "Memory by part",
    "Time by kind of op",
    "Roofline",
    "Predicted against measured",
    "What each technique gains where",
    "The same plan on other devices",
]
VOID = {"meta", "br", "wbr"}


class Outline(HTMLParser):
    """Collects ids and checks that elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for key, value in attrs if key == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return html.render(comparison())


def test_nests_and_has_unique_ids(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))


def test_needs_nothing_from_outside(page: str) -> None:
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r'(src|href)="(?!#)', without_names)
    assert "http" not in without_names
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page


def test_has_every_plot_with_a_text_alternative(page: str) -> None:
    made = pictures(comparison())
    assert [picture.title for picture in made] == TITLES
    assert len(re.findall(r'<svg[^>]*role="img"', page)) == len(TITLES)
    for picture in made:
        svg = ElementTree.fromstring(picture.svg)
        description = svg.find("{http://www.w3.org/2000/svg}desc")
        assert description is not None
        assert len(description.text or "") > 30
        assert picture.caption.endswith(".")


def test_plots_take_their_colours_from_the_page(page: str) -> None:
    assert "currentColor" in page
    assert "var(--c0, " in page
    for stand_in in ("#010203", "#040506", "#070809"):
        assert stand_in not in page


def test_tells_the_tables_and_the_summary(page: str) -> None:
    for wanted in (
        "2.05×",
        "refused: gemfilter drops",
        "no kernel for nvfp4",
        "Least memory",
        "max_batched_tokens",
        "Example CPU",
        "0.700, 0.500, 0.300 (measured)",
    ):
        assert wanted in page, wanted


def test_odd_names_stay_text() -> None:
    odd = '<script>alert("$x_1$")</script> & (a)'
    base = comparison()
    row = base.rows[0].model_copy(update={"label": odd})
    page = html.render(base.model_copy(update={"rows": [row], "title": odd}))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_one_result_and_writing(tmp_path: Path) -> None:
    html.write(result(kind="predict"), tmp_path / "deep" / "report.html")
    page = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert "Predicted on this-cpu" in page
    assert "Memory by part" in page
    with pytest.raises(ValueError, match="cannot write the report"):
        html.write(result(), tmp_path / "deep")


def test_summary_says_only_what_holds() -> None:
    base = result(tokens_per_s=Figure.exact(100.0, "token/s"))
    slow = result("slow", tokens_per_s=Figure.exact(80.0, "token/s"))
    made = Comparison(
        title="t",
        model="m",
        device="this-cpu",
        workload=base.workload,
        baseline=Row(label="base", measured=base),
        rows=[Row(label="slow", measured=slow)],
    )
    assert html.summary(made) == ["No row is faster than the baseline on this-cpu."]
    assert html.summary(Comparison.single(result(kind="predict"))) == []


def test_summary_tells_errors_of_times_and_of_ratios() -> None:
    """This machine was half as fast as when it was calibrated: times are off, ratios are not."""

    def at(speed: float, **changes: Any) -> Result:
        return result(
            tokens_per_s=Figure.exact(speed, "token/s"), tpot=Figure.exact(1 / speed, "s"), **changes
        )

    rows = [
        Row(label=label, measured=at(speed), predicted_here=at(2 * speed, kind="predict"))
        for label, speed in (("base", 100.0), ("slow", 80.0))
    ]
    made = Comparison(
        title="t",
        model="m",
        device="this-cpu",
        workload=result().workload,
        baseline=rows[0],
        rows=rows[1:],
    )
    assert html.summary(made)[-1] == (
        "TPOT predicted for this-cpu is off by 50 % in the median over rows, "
        "speed over the baseline's by 0 %."
    )


def test_a_comparison_without_numbers_has_no_plots() -> None:
    refused = Row(label="x", refused="it cannot")
    made = Comparison(title="t", model="m", device="d", workload=result().workload, baseline=refused)
    assert pictures(made) == []
    assert "it cannot" in html.render(made)


def test_plots_are_deterministic() -> None:
    def draw() -> str:
        return roofline({"ops": [Point("linear", 2.0, 10.0)]}, {"DRAM": 14.0}, {"fp32": 95.0})

    assert draw() == draw()


def test_a_roofline_shows_its_limits_wherever_they_lie() -> None:
    def draw(x: float) -> str:
        points = {"ops": [Point("attention", 2.0, 10.0)]}
        return roofline(points, {"DRAM": 14.0}, {"fp32": 95.0}, limits={"I/O bound": x})

    assert "I/O bound: 30.0 FLOP/byte" in draw(30.0)
    assert "beyond" not in draw(30.0)
    assert "I/O bound: 1,000,000 FLOP/byte (beyond the right edge)" in draw(1e6)


def test_stacked_sums_small_parts_as_other() -> None:
    many = {f"kind{i}": float(20 - i) for i in range(12)}
    svg = stacked([Group("row", [Bar("measured", many)])], "s", name="many", title="Time")
    assert "other" in svg
    assert "kind11" not in svg
    assert f"{sum(many.values()) / 60:.2f} min" in svg or "174 s" in svg
