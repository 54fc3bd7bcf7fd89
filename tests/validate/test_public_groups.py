"""The groups of public figures: what their tables hold, and how loads are played."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from twofold.devices.catalog import device_names
from twofold.models.catalog import model_names
from twofold.validate.groups import public, public_tables

NOWHERE = Path("nowhere")


def test_published_tables_name_what_exists_and_where_they_are_from() -> None:
    for path in public_tables.wanted(NOWHERE):
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert file["source"].startswith("github.com/"), path
        for table in file["tables"]:
            assert table["device"] in device_names()
            assert table["model"] in model_names()
            assert all(value > 0 for figure in table["figures"] for value in figure)


@pytest.mark.parametrize(
    ("kind", "figure", "quantity"),
    [
        ("batch", [4, 64, 16, 900.0], "throughput"),
        ("first", [64, 9.0], "ttft"),
        ("alone", [32, 250.0], "tpot"),
    ],
)
def test_every_kind_of_figure_is_predicted(kind: str, figure: list[float], quantity: str) -> None:
    table = {"kind": kind, "device": "l4", "model": "llama-3.2-1b", "weights": "dense", "serving": "plain"}
    sample = public_tables._sample("x", table, figure)
    assert (sample.quantity, sample.fitted, sample.generation) == (quantity, False, "ada")
    measured = {"throughput": 900.0, "ttft": 9e-3, "tpot": 4e-3}[quantity]
    assert sample.measured == pytest.approx(measured)
    assert 0.2 < sample.predicted / measured < 5.0


def test_figures_of_several_devices_are_per_device() -> None:
    table = {"kind": "batch", "device": "a100-80g-sxm", "model": "llama-3.2-1b", "weights": "dense"}
    alone, both = (
        public_tables._sample("x", {**table, "serving": "plain", "tp": tp}, [8, 64, 16, 1.0]).predicted
        for tp in (1, 2)
    )
    assert both < alone < 2 * both


def test_outputs_are_as_long_and_as_spread_as_the_figure_says() -> None:
    lengths = public._outputs(400.0, 300.0, 4000)
    mean = sum(lengths) / len(lengths)
    assert mean == pytest.approx(400.0, rel=0.01)
    assert sum(n * n for n in lengths) / sum(lengths) / 2 == pytest.approx(300.0, rel=0.05)
