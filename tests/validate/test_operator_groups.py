"""Operators beside predictions: on measurements at hand, and the public single-stream figures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import pytest

from twofold.validate.groups import learned, linear_ops, operators, single_stream
from twofold.validate.sample import Sample

DATA = Path(os.environ.get("TWOFOLD_DATA") or os.devnull) / "measured"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="TWOFOLD_DATA does not name a folder of data")


def mape(samples: Iterable[Sample]) -> float:
    return mean(abs(sample.error) for sample in samples)


def test_single_streams_are_within_a_tenth() -> None:
    found = list(single_stream.samples(Path(os.devnull)))
    assert len(found) == 11
    assert {s.case: f"{s.error:+.1%}" for s in found if abs(s.error) > 0.1} == {}
    assert [s.case for s in found if s.fitted] == ["llama-2-7b-int4-g32", "llama-2-70b-int4-g32"]


@needs_data
@pytest.mark.long
def test_linear_operations_at_token_counts_held_out() -> None:
    found = [sample for sample in linear_ops.samples(DATA) if not sample.fitted]
    for device in sorted({sample.device for sample in found}):
        assert mape(sample for sample in found if sample.device == device) <= 0.10, device


@needs_data
def test_single_operators_held_out() -> None:
    found = [sample for sample in operators.samples(DATA) if not sample.fitted]
    assert mape(sample for sample in found if sample.model == "matmul") <= 0.08
    assert mape(found) <= 0.10


def test_groups_say_which_files_they_read(tmp_path: Path) -> None:
    (tmp_path / "gelu-a100.csv").write_text("1000, 0.02\n", encoding="utf-8")
    assert [path.name for path in operators.wanted(tmp_path)] == ["gelu-a100.csv"]
    assert linear_ops.wanted(tmp_path) == []
    assert learned.wanted(tmp_path) == []
    (sample,) = operators.samples(tmp_path)
    assert (sample.quantity, sample.generation, sample.model) == ("op", "ampere", "gelu")


def test_a_forest_learns_products() -> None:
    pytest.importorskip("sklearn")
    from twofold.fit.learned import LearnedProducts, features
    from twofold.fit.points import Point
    from twofold.measured.ops import Timed
    from twofold.ops import Linear

    points = []
    for rows in (1, 8, 64, 256, 1024, 4096):
        for cols in (1024, 4096, 8192, 16384):
            op = Linear(rows, 4096, cols, "f16", 2 * 4096 * cols, "fp16", 2)
            seconds = 3e-6 + max(op.cost().flop / 5e14, 2 * 4096 * cols / 3e12)
            points.append(Point("made", Timed("h100-sxm", "", "", "", op, rows, seconds), True))
    model = LearnedProducts(points)
    assert len(features(points[0])) == len(set(features.__globals__["FEATURES"]))
    errors = [s / p.timed.seconds - 1 for s, p in zip(model.predict(points), points, strict=True)]
    assert mean(abs(e) for e in errors) < 0.2
