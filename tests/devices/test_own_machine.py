"""A machine in a file of the user's own: the one that CONTRIBUTING.md shows, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.devices.registry import machine_class, make_device
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan

SHOWN = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_the_example_of_the_handbook_works(tmp_path: Path) -> None:
    """The file as shown predicts a plan: most time goes into reading weights at the bandwidth that it has."""
    text = SHOWN.read_text(encoding="utf-8")
    code = text.split('```python\n"""Tile')[1].split("```")[0]
    path = tmp_path / "tile.py"
    path.write_text('"""Tile' + code, encoding="utf-8")
    plan = Plan.from_dict({"model": "gpt2-small", "workload": {"requests": 1, "prompt": 64, "output": 32}})
    result = predict_plan(plan, str(path))
    assert result.device == "tile"
    assert result.tpot is not None
    assert result.memory.weights.mid / 51.2e9 < result.tpot.mid < 2 * result.memory.weights.mid / 51.2e9
    assert set(result.joules_by_part) == {"dram", "array", "vector", "sram", "idle"}


def test_a_file_without_a_machine_is_refused(tmp_path: Path) -> None:
    """A missing file and one that defines no machine say what is wrong."""
    with pytest.raises(ValueError, match="no such file"):
        make_device(str(tmp_path / "none.py"))
    empty = tmp_path / "empty.py"
    empty.write_text("MACHINE = 3", encoding="utf-8")
    with pytest.raises(ValueError, match="must end with MACHINE"):
        machine_class(str(empty))
