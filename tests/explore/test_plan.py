"""The `explore` section: what it takes and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.explore.spaces import PLAN, SPACE, exploration

from twofold.explore.plan import load_exploration, make_exploration
from twofold.plan import Plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "explore.yaml"


def test_the_example_is_valid() -> None:
    found = load_exploration(EXAMPLE)
    assert found.plan.model == "llama-3.1-70b"
    assert found.explore.slo["tpot_p90"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"device": ["h100-sxm"]}, "unknown key 'device'; did you mean 'devices'"),
        ({"quality": {"kl": 0.1}}, "unknown key 'quality.kl'"),
        ({"slo": {"ttft_p95": "1 s"}}, "unknown limit 'ttft_p95'"),
        ({"slo": {"ttft_p90": "1 B"}}, "is not in s"),
        ({"slo": {"ttft_p90": 0}}, "above 0"),
        ({"objectives": ["speed"]}, "objectives"),
        ({"counts": [0]}, "counts"),
        ({"counts": [1, 1]}, "counts names a value twice"),
        ({"rate": [1.0]}, "not both"),
        ({"techniques": [["kivi:bits"]]}, "not key=value"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exploration(**section)


def test_values_of_formats_are_checked_before_the_search() -> None:
    from twofold.explore.space import Space
    from twofold.models.catalog import get_spec

    found = exploration(cache_formats=["auto", "int3"])
    with pytest.raises(ValueError, match="cache_format"):
        Space(found, get_spec(found.plan.model))


def test_alternatives_are_written_out() -> None:
    found = exploration(techniques=[[], ["kivi:bits=2|4,residual=64", "sarathi"]])
    sets = [[(use.name, use.params) for use in uses] for uses in found.explore.techniques]
    assert sets == [
        [],
        [("kivi", {"bits": 2, "residual": 64}), ("sarathi", {})],
        [("kivi", {"bits": 4, "residual": 64}), ("sarathi", {})],
    ]


def test_a_file_without_the_section_says_so(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("model: llama-3.1-8b\n")
    with pytest.raises(ValueError, match="no section `explore`"):
        load_exploration(path)


def test_unknown_keys_of_the_plan_itself_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("modle: llama-3.1-8b\nexplore: {devices: [h100-sxm]}\n")
    with pytest.raises(ValueError, match="did you mean 'model'"):
        load_exploration(path)


def test_devices_come_from_the_plan_where_the_section_names_none() -> None:
    section = {k: v for k, v in SPACE.items() if k != "devices"}
    assert make_exploration(Plan.from_dict({**PLAN, "devices": ["l40s"]}), section).explore.devices == (
        "l40s",
    )
    with pytest.raises(ValueError, match="devices names none"):
        make_exploration(Plan.from_dict(PLAN), section)


def test_file_names_are_seen_from_the_plan(tmp_path: Path) -> None:
    """As in any plan: of prompts, traces and the quality text."""
    file = tmp_path / "plan.yaml"
    file.write_text(
        "model: llama-3.1-8b\nworkload: {trace: load.csv}\nquality: {text: prose.txt}\n"
        "explore: {devices: [h100-sxm]}\n"
    )
    plan = load_exploration(file).plan
    assert (plan.workload.trace, plan.quality.text) == (tmp_path / "load.csv", tmp_path / "prose.txt")
