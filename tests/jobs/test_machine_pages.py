"""Pages of machines: what stands on them, of a machine with a paper's comparison and of a baseline."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from functools import cache

import pytest

from twofold.analysis.sensitivity import sensitivity
from twofold.claims.setups import mixpe
from twofold.devices.machine import numbers
from twofold.devices.machines.mixpe import MixPe
from twofold.devices.registry import machine_class
from twofold.jobs.machine_pages import page

both = pytest.mark.parametrize("name", ["mixpe", "int8-array"])
made = cache(page)


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of a table, its head and rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@both
def test_sections(name: str) -> None:
    """What time and energy go into, and the figures; claims and sensitivities where a paper is set up."""
    text, _ = made(name)
    found = re.findall("^## (.*)$", text, re.MULTILINE)
    paper = ["What its paper claims", "What moves the result most"] if name == "mixpe" else []
    assert found == ["Where time and energy go", *paper, "Figures"]
    assert text.startswith(f"# {machine_class(name).title}\n")
    assert f"![Time and energy]({name}.svg)" in text


@both
def test_the_picture_is_an_svg_of_both_bars(name: str) -> None:
    """It can be parsed, and names the ops and parts of the page's tables."""
    text, picture = made(name)
    drawn = ElementTree.fromstring(picture)
    assert drawn.tag.endswith("svg")
    words = " ".join(drawn.itertext())
    assert "time by op" in words
    assert "energy by part" in words
    assert "linear" in words
    assert "dram" in words
    assert "| linear |" in re.sub(" +", " ", section(text, "Where time and energy go"))


@both
def test_every_figure_has_its_value_and_source(name: str) -> None:
    """One line for each number of the machine, none without a source."""
    found = {cells[0].strip("`"): cells[1:] for cells in rows(section(made(name)[0], "Figures"))}
    expected = numbers(machine_class(name).make().figures)
    assert set(found) == set(expected)
    for path, value in expected.items():
        assert float(found[path][0]) == pytest.approx(value, rel=1e-5)
        assert len(found[path][1]) > 10


def test_the_three_largest_swings_come_first() -> None:
    """As the analysis finds them, sorted by their larger change."""
    middle, moved = sensitivity(MixPe, mixpe.headline)
    listed = rows(section(made("mixpe")[0], "What moves the result most"))
    assert [cells[0].strip("`") for cells in listed] == [each.path for each in moved[:3]]
    swings = [each.swing(middle) for each in moved]
    assert swings == sorted(swings, reverse=True)
    assert swings[2] > 0
    for cells in listed:
        shown = [abs(float(p)) for p in re.findall(r"\(([+-][\d.]+) ?%\)", " ".join(cells).replace("−", "-"))]
        assert shown, "the changes are shown"
