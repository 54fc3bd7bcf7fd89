"""Intervals widen with every step away from what was validated; labels follow from the same table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twofold.devices import catalog
from twofold.devices.listing import device_records
from twofold.devices.uncertainty import (
    NOT_VALIDATED,
    STEPS,
    Residuals,
    Standing,
    Table,
    Validated,
    Widening,
    confidence_of,
    same_precision,
    shipped,
    spread,
)

HERE = Standing("datasheet", "gpu", "hopper", "h100-sxm", "bf16", 64, 4096)
TPU = replace(HERE, device="tpu-v4", generation="tpu", kind="tpu")


def table(**factors: float) -> Table:
    """TPOT and throughput measured on two GPUs, ops on one CPU that was calibrated."""
    residuals = Residuals(low=-0.1, high=0.2, points=100, folds=4)
    places: list[dict[str, Any]] = [
        {"generation": "hopper", "device": "h100-sxm", "precision": "bf16"},
        {"generation": "hopper", "device": "h100-sxm", "precision": "fp8"},
        {"generation": "ampere", "device": "a100-80g-sxm", "precision": "bf16"},
    ]
    return Table(
        source="made up",
        level=0.9,
        residuals={"datasheet": {"tpot": residuals, "throughput": residuals}},
        steps={step: Widening(factor=factors.get(step, 1.0), basis="made up") for step in STEPS},
        validated=[
            Validated(label="datasheet", quantity=q, kind="gpu", tokens=128, context=8192, **place)
            for q in ("tpot", "throughput")
            for place in places
        ],
    )


def width(standing: Standing, made: Table, quantity: Any = "tpot") -> float:
    found = spread(quantity, standing, made)
    return math.log(found.high / found.low)


def test_what_was_validated_has_the_interval_of_its_residuals() -> None:
    found = spread("tpot", HERE, table())
    assert (found.low, found.high) == (pytest.approx(math.exp(-0.1)), pytest.approx(math.exp(0.2)))
    assert found.steps == ()


def test_every_step_widens() -> None:
    made = table(model=1.1, device=1.2, generation=1.3, kind=1.4, precision=1.5, size=1.1, quantity=1.6)
    steps = [
        HERE,
        replace(HERE, device="h200-sxm"),
        replace(HERE, device="b200", generation="blackwell"),
        TPU,
        replace(TPU, precision="int4wo-32"),
        replace(TPU, precision="int4", tokens=512),
        replace(TPU, precision="int4", tokens=512, context=32768),
    ]
    widths = [width(standing, made) for standing in steps]
    assert widths == sorted(widths)
    assert len(set(widths)) == len(widths)
    factors = [w / 0.3 for w in widths]
    # Variances add: each step brings the square of its factor less one.
    together = [sum(f**2 - 1 for f in (1.1, 1.2, 1.3, 1.4)[:n]) for n in range(1, 5)]
    assert factors[:4] == pytest.approx([math.sqrt(1 + excess) for excess in together])
    doublings = factors[5] ** 2 - factors[4] ** 2  # 512 is two beyond 128
    assert doublings == pytest.approx((1.1**2) ** 2 - 1)


def test_a_precision_counts_as_validated_where_the_nearest_hardware_has_it() -> None:
    made = table(precision=2.0)
    assert width(replace(HERE, precision="fp16"), made) == width(HERE, made)
    assert width(replace(HERE, precision="fp8"), made) == width(HERE, made)
    on_ampere = replace(HERE, generation="ampere", device="a100-80g-sxm")
    assert width(replace(on_ampere, precision="fp8"), made) > width(on_ampere, made)


def test_widening_is_as_large_on_both_sides() -> None:
    plain, wide = spread("tpot", HERE, table()), spread("tpot", HERE, table(model=2.0))
    assert math.log(wide.high / plain.high) == pytest.approx(math.log(plain.low / wide.low))


def test_a_quantity_without_residuals_takes_the_likest_ones() -> None:
    made = table(quantity=1.5)
    assert width(HERE, made, "op") == pytest.approx(1.5 * width(HERE, made, "tpot"))
    times, rates = spread("e2e", HERE, made), spread("throughput", HERE, made)
    assert times.low < 1 / rates.high * 1.001  # many per second is few seconds
    assert times.high > 1 / rates.low * 0.999


def test_labels_follow_from_what_was_measured() -> None:
    made = table()
    assert confidence_of(HERE, made) == "datasheet"
    assert confidence_of(replace(HERE, generation="ada", device="l40s"), made) == "datasheet"
    assert confidence_of(replace(HERE, kind="pim"), made) == NOT_VALIDATED
    assert confidence_of(replace(HERE, kind="cpu", label="calibrated"), made) == "calibrated"
    assert confidence_of(replace(HERE, kind="cpu"), made) == NOT_VALIDATED


@pytest.mark.parametrize(
    ("name", "common"),
    [
        ("fp16", "16 bit"),
        ("bf16", "16 bit"),
        ("int4wo-32", "int4"),
        ("mxint4", "int4"),
        ("q4_0", "int4"),
        ("int8wo", "int8"),
        ("nvfp4", "fp4"),
        ("mxfp4-experts", "fp4"),
        ("fp8_block", "fp8"),
        ("fp32", "fp32"),
    ],
)
def test_formats_that_cost_the_same_have_one_name(name: str, common: str) -> None:
    assert same_precision(name) == common


def test_the_shipped_table_is_complete() -> None:
    made = shipped()
    assert set(made.steps) == set(STEPS)
    assert "datasheet" in made.residuals
    assert made.source
    for entry in made.validated:
        if entry.device in catalog.device_names():
            file = catalog.get_device(entry.device)
            assert (entry.kind, entry.generation) == (file.kind, file.generation)


def test_listed_devices_carry_the_derived_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path))  # without a calibration of this machine
    labels = {record["name"]: record["confidence"] for record in device_records() if not record["real"]}
    kinds = {e.kind for e in shipped().validated if e.label == "datasheet"}
    assert labels["pim-gpt"] == NOT_VALIDATED
    assert labels["h100-sxm"] == ("datasheet" if "gpu" in kinds else NOT_VALIDATED)
    assert labels["tpu-v4"] == ("datasheet" if "tpu" in kinds else NOT_VALIDATED)
