"""The schema of results: what it accepts, what it refuses, and that it survives JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError
from tests.report.examples import comparison, result

from twofold.report.comparison import Comparison, Row
from twofold.report.schema import Figure, Memory, Quality, Result


def test_figure_keeps_its_order() -> None:
    assert Figure.exact(3.0, "s").is_exact
    spread = Figure.spread([0.1, 0.3, 0.2], "s")
    assert (spread.low, spread.high) == (0.1, 0.3)
    assert spread.mid == pytest.approx(0.2)
    with pytest.raises(ValidationError, match="low <= mid <= high"):
        Figure(low=2, mid=1, high=3, unit="s")
    with pytest.raises(ValueError, match="at least one"):
        Figure.spread([], "s")


def test_spread_of_equal_values_is_exact_in_spite_of_rounding() -> None:
    assert Figure.spread([0.1] * 7, "s").is_exact


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_figures_are_finite(bad: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Figure.exact(bad, "s")


def test_units_are_fixed_by_field() -> None:
    with pytest.raises(ValidationError, match="'s', not in 'ms'"):
        result(ttft=Figure.exact(842.0, "ms"))


def test_memory_sums_its_parts() -> None:
    memory = Memory.of(weights=100, cache=20, activations=3, other=2, grown=140)
    assert memory.total.mid == 125
    assert memory.unaccounted is not None
    assert memory.unaccounted.mid == 15
    assert Memory.of(weights=1, cache=1).unaccounted is None
    parts = memory.model_dump()
    parts["total"]["low"] = parts["total"]["mid"] = parts["total"]["high"] = 99.0
    with pytest.raises(ValidationError, match="parts sum to 125"):
        Memory.model_validate(parts)


@pytest.mark.parametrize("kind", ["run", "predict"])
def test_round_trip(kind: str) -> None:
    made = result(kind=kind)
    assert Result.model_validate_json(made.model_dump_json()) == made
    assert Result.model_validate(json.loads(made.model_dump_json())) == made


def test_json_has_the_documented_keys() -> None:
    keys = set(json.loads(result().model_dump_json()))
    text = "model device techniques ttft tpot itl tokens_per_s memory energy_per_token quality confidence"
    documented = {*text.split(), "behaviour"}
    assert documented <= keys
    assert set(json.loads(result().model_dump_json())["ttft"]) == {"low", "mid", "high", "unit"}
    assert documented <= set(Result.model_json_schema()["properties"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ttft": None}, "without a reason in `missing`: ttft"),
        (
            {"missing": {"energy_per_token": "no meter", "ttft": "none"}},
            "reason for a figure that is there: ttft",
        ),
        ({"missing": {"energy_per_token": "no meter", "speed": "none"}}, "is no figure: speed"),
        ({"confidence": "datasheet"}, "only a run is measured"),
        ({"frobnicated": 1}, "frobnicated"),
        (
            {"workload": {"summary": "", "requests": 0, "prompt_tokens": 1, "output_tokens": 1}},
            "greater than or equal",
        ),
    ],
)
def test_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        result(**changes)


def test_passkey_lengths_stay_numbers() -> None:
    quality = Quality(tokens=1, passkey={2048: Figure.exact(0.5, "1")})
    assert Quality.model_validate_json(quality.model_dump_json()).passkey[2048].mid == 0.5


def test_results_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        result().label = "other"  # type: ignore[misc]


def test_errors_follow_from_the_results() -> None:
    row = Row(
        label="x",
        measured=result(tpot=Figure.exact(0.02, "s")),
        predicted_here=result(kind="predict", tpot=Figure.exact(0.025, "s")),
    )
    assert row.errors["tpot"] == pytest.approx(0.25)
    assert "itl" not in row.errors
    assert Row(label="y", measured=result()).errors == {}


def test_comparison_round_trip_recomputes_errors() -> None:
    made = comparison()
    text = made.model_dump_json()
    assert json.loads(text)["rows"][0]["errors"]["tpot"] == pytest.approx(made.rows[0].errors["tpot"])
    assert Comparison.model_validate_json(text) == made
    assert made.median_error("tpot") == pytest.approx(0.06, abs=0.05)
    assert made.devices == ["a100-80g-sxm", "h100-sxm", "rtx-4090", "phone-soc"]
    assert len(made.results) == 9 * 6 - 1


def test_a_refused_row_has_no_results() -> None:
    with pytest.raises(ValidationError, match="refused and has results"):
        Row(label="x", refused="no", measured=result())
    with pytest.raises(ValidationError, match="predicted and refused on d"):
        Row(label="x", predicted_elsewhere={"d": result(kind="predict")}, refused_elsewhere={"d": "no"})


def test_the_schema_does_not_import_torch() -> None:
    code = "import sys, twofold.report.html, twofold.report.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
