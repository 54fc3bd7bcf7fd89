"""Fitting: the search finds known values, half of the points are held out, what is written is read back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from twofold.cli import app
from twofold.devices.catalog import get_device
from twofold.devices.schema import Generation
from twofold.fit.choose import fits
from twofold.fit.fit import errors, fit, predict
from twofold.fit.parameters import PARAMETERS, STAGES, value_of, with_values
from twofold.fit.points import Point, read_points
from twofold.fit.search import search
from twofold.fit.write import updated, write
from twofold.measured.operators import COLUMNS
from twofold.measured.ops import Timed
from twofold.ops import Linear
from twofold.ops.elementwise import Add, Norm

WHEN = date(2026, 1, 2)


def synthetic(values: dict[str, float]) -> Iterator[Point]:
    """What an H100 with those parameters would measure."""
    efficiency = with_values(get_device("h100-sxm").efficiency, values)
    ops = [
        Linear(rows, depth, cols, "f16", 2 * depth * cols, "fp16", 2)
        for rows in (1, 8, 64, 300, 1024, 4096)
        for depth, cols in ((4096, 6144), (4096, 22016), (11008, 4096))
    ]
    found: list[Point] = []
    for number, op in enumerate([*ops, *(Add(8 << n, 4096, 2) for n in range(12))]):
        timed = Timed("h100-sxm", str(number), "op", "", op, 1, 1.0)
        (seconds,) = predict([Point("made.csv", timed, True)], efficiency)
        found.append(
            Point("made.csv", Timed("h100-sxm", str(number), "op", "", op, 1, seconds), number % 2 == 0)
        )
    return iter(found)


def test_the_search_finds_a_minimum_within_bounds() -> None:
    def loss(v: dict[str, float]) -> float:
        return (v["x"] - 3) ** 2 + (v["y"] - v["x"]) ** 2

    bounds = {"x": (0.1, 10.0), "y": (0.1, 2.5)}
    found, least = search(loss, {"x": 1.0, "y": 1.0}, bounds)
    assert found["x"] == pytest.approx(2.75, abs=0.1)
    assert found["y"] == pytest.approx(2.5, abs=0.05)
    assert least == loss(found)


def test_fitting_recovers_what_made_the_points() -> None:
    truth = {"elementwise.memory": 0.7, "elementwise.launch": 3e-6}
    points = list(synthetic(truth))
    found = fit("hopper", points, starts=1)
    for path, value in truth.items():
        assert found.after[path] == pytest.approx(value, rel=0.05)
    (whole,) = [row for row in found.rows if not row.operation]
    assert whole.held_out is not None
    assert whole.held_out.mape < 0.03
    assert {row.source for rows in found.by_stage.values() for row in rows} == {"made.csv"}


def test_what_no_point_tells_stays() -> None:
    points = [p for p in synthetic({}) if isinstance(p.timed.op, Add)]
    found = fit("hopper", points, starts=1)
    assert set(found.after) == {"elementwise.memory", "elementwise.cache", "elementwise.launch"}


def test_fitting_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no measurements of generation 'hopper'"):
        fit("hopper", [])


def test_values_are_read_and_replaced_by_path() -> None:
    efficiency = get_device("h100-sxm").efficiency
    changed = with_values(efficiency, {"products.launch": 1.0, "elementwise.pace.norm": 2.0})
    assert value_of(changed, "products.launch") == 1.0
    assert value_of(changed, "elementwise.pace.norm") == 2.0
    assert value_of(efficiency, "products.launch") != 1.0
    assert value_of(get_device("tpu-v4").efficiency, "products.pull") is None


def test_every_parameter_has_a_meaning_and_bounds() -> None:
    paths = [p.path for stage in STAGES for p in stage.parameters]
    assert len(paths) == len(set(paths))
    for parameter in PARAMETERS.values():
        assert 0 < parameter.low < parameter.high
        assert len(parameter.meaning) > 5


def test_what_is_written_is_read_back_with_its_provenance(tmp_path: Path) -> None:
    found = fit("hopper", list(synthetic({"elementwise.memory": 0.7})), starts=1)
    path = write(found, tmp_path, WHEN)
    again = Generation(**yaml.safe_load(path.read_text(encoding="utf-8")))
    for name, value in found.after.items():
        assert value_of(again.efficiency, name) == pytest.approx(value, rel=2e-3)
    source = again.sources[again.efficiency.elementwise.memory.source]
    assert "made.csv" in source
    assert "2026-01-02" in source
    assert "held out" in source
    assert again.efficiency.attention == get_device("h100-sxm").efficiency.attention


def test_writing_refuses_a_file_without_the_parameter() -> None:
    found = fit("hopper", [p for p in synthetic({}) if isinstance(p.timed.op, Add)], starts=1)
    with pytest.raises(ValueError, match=r"no line for elementwise\.cache"):
        updated("name: x\nefficiency:\n  step: 1\n", found, WHEN)


def test_errors_are_of_both_halves() -> None:
    (row, whole) = sorted(errors(list(synthetic({}))), key=lambda row: row.operation, reverse=True)
    assert row.operation == "op"
    assert whole.fitted is not None
    assert whole.fitted.mape == pytest.approx(0.0)


def table(folder: Path, gpu: str = "h100-sxm") -> None:
    rows = [f"{rows},4096,4096,bf16,bf16,{2e-5 + rows * 4e-8},vllm" for rows in (1, 16, 64, 256, 1024, 4096)]
    (folder / f"products-{gpu}.csv").write_text(
        "\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8"
    )


def test_every_other_number_of_rows_trains(tmp_path: Path) -> None:
    table(tmp_path)
    points = read_points(tmp_path)
    assert [p.timed.rows for p in points if p.fitted] == [1, 64, 1024]
    assert [p.timed.rows for p in points if not p.fitted] == [16, 256, 4096]


def test_generations_are_chosen_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no table of operators"):
        fits(tmp_path)
    table(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'hopper'"):
        fits(tmp_path, ["hoper"])
    with pytest.raises(ValueError, match="it has hopper"):
        fits(tmp_path, ["ada"])
    assert [found.generation for found in fits(tmp_path, starts=1)] == ["hopper"]


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    table(tmp_path)
    asked = ["fit", "--data", str(tmp_path), "--starts", "1", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "products.matrix" in shown.output
    assert (tmp_path / "out" / "hopper.yaml").is_file()


def test_norms_tell_their_pace() -> None:
    op = Norm(4096, 4096, "rms", 2)
    timed = Timed("h100-sxm", "norm", "norm", "", op, 4096, 1e-4)
    found = fit("hopper", [Point("made.csv", timed, True)], starts=1)
    assert "elementwise.pace.norm" in found.after
    assert "elementwise.pace.rotary" not in found.after
