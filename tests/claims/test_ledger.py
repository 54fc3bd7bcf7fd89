"""The ledger: verdicts, grouping, and what happens when a setup fails."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import pytest
from rich.console import Console

from twofold.claims import ledger
from twofold.claims.ledger import Claims, LedgerRow, Outcome, build_ledger, judge, told_apart
from twofold.techniques.base import Claim

CLAIM = Claim(
    "speed",
    "decode throughput ratio",
    (2.0, 3.0),
    "×",
    "plain",
    "llama",
    "A100",
    "arXiv:0000.00000",
    setup="kivi:speed",
)


def run(outcome: tuple[float, float], claim: Claim = CLAIM) -> LedgerRow:
    (row,) = build_ledger(
        [Claims("kivi", "technique", [claim])], lambda _, __: Outcome(outcome, "because", "predicted")
    )
    return row


@pytest.mark.parametrize(
    ("claimed", "ours", "unit", "verdict", "ratio"),
    [
        ((2, 3), (2.5, 2.5), "×", "reproduced", 1.0),  # inside
        ((2, 3), (1.0, 2.0), "×", "reproduced", 1.0),  # touching
        ((2, 2), (1.7, 1.7), "×", "reproduced", 0.85),  # just near enough, below
        ((2, 2), (2.3, 2.3), "×", "reproduced", 1.15),  # and above
        ((2, 2), (1.69, 1.69), "×", "direction", 0.845),
        ((2, 3), (1.2, 1.4), "x", "direction", 0.7),  # nearest ends: 1.4 of 2
        ((2, 3), (6.0, 9.0), "×", "direction", 2.0),
        ((2, 2), (0.9, 0.9), "×", "not reproduced", 0.45),  # a slowdown
        ((2, 2), (0.9, 1.2), "×", "not reproduced", 0.6),  # not clearly a gain
        ((0.5, 0.5), (0.8, 0.8), "×", "direction", 1.6),  # both reduce
        ((0.7, 0.7), (0.2, 0.3), "share", "direction", 0.3 / 0.7),
        ((-2, -2), (-1, -1), "dB", "direction", 0.5),
        ((-2, -2), (-2.1, -2.1), "dB", "reproduced", 1.05),
        ((-2, -2), (1, 1), "dB", "not reproduced", None),
        ((0, 0), (0.5, 0.5), "dB", "not reproduced", None),
        ((0, 0), (0, 0), "dB", "reproduced", 1.0),
    ],
)
def test_judge(
    claimed: tuple[float, float], ours: tuple[float, float], unit: str, verdict: str, ratio: float | None
) -> None:
    found = judge(claimed, ours, unit)
    assert found[0] == verdict
    assert found[1] == (None if ratio is None else pytest.approx(ratio))


def test_row_says_everything() -> None:
    row = run((2.5, 2.6))
    (record,) = ledger.to_records([row])
    assert {
        "system",
        "kind",
        "claimed",
        "ours",
        "ratio",
        "verdict",
        "why",
        "source",
        "figure",
        "unit",
    } <= set(record)
    assert json.loads(json.dumps(record))["claimed"] == [2.0, 3.0]
    assert (row.verdict, row.why, row.how) == ("reproduced", "because", "predicted")


def test_rows_keep_the_order_of_systems_and_claims() -> None:
    second = replace(CLAIM, key="memory", figure="memory", setup=None, why_not="its baseline is not public")
    rows = build_ledger(
        [Claims("kivi", "technique", [CLAIM, second]), Claims("pim-gpt", "device", [CLAIM])],
        lambda system, _: Outcome((2.0, 2.0), system, "predicted"),
    )
    assert [(r.system, r.kind, r.figure) for r in rows] == [
        ("kivi", "technique", "decode throughput ratio"),
        ("kivi", "technique", "memory"),
        ("pim-gpt", "device", "decode throughput ratio"),
    ]
    assert (rows[1].verdict, rows[1].why, rows[1].ours) == (
        "not comparable",
        "its baseline is not public",
        None,
    )
    assert rows[2].why == "pim-gpt"


def test_the_same_figure_is_told_apart_by_as_little_as_it_takes() -> None:
    alone = replace(CLAIM, figure="memory")
    others = [replace(CLAIM, baseline="none"), replace(CLAIM, baseline="none", model="opt"), CLAIM]
    assert told_apart([alone, *others]) == [
        "memory",
        "decode throughput ratio, with llama",
        "decode throughput ratio, with opt",
        "decode throughput ratio, against plain",
    ]
    twice = [CLAIM, replace(CLAIM, hardware="H100"), replace(CLAIM, hardware="H100", source="page 2")]
    assert told_apart(twice) == [
        "decode throughput ratio, on A100",
        "decode throughput ratio, on H100, from arXiv:0000.00000",
        "decode throughput ratio, on H100, from page 2",
    ]


@pytest.mark.parametrize(
    "error", [ValueError("the model is not downloaded"), FileNotFoundError("the model is not downloaded")]
)
def test_what_a_user_could_cause_becomes_a_row(error: Exception) -> None:
    def fail(_: str, __: Claim) -> Outcome:
        raise error

    (row,) = build_ledger([Claims("kivi", "technique", [CLAIM])], fail)
    assert row.verdict == "not comparable"
    assert row.why == "the setup could not run: the model is not downloaded"


@pytest.mark.parametrize("error", [AssertionError("bug"), KeyError("bug"), ZeroDivisionError("bug")])
def test_bugs_propagate(error: Exception) -> None:
    def fail(_: str, __: Claim) -> Outcome:
        raise error

    with pytest.raises(type(error)):
        build_ledger([Claims("kivi", "technique", [CLAIM])], fail)


def test_resolve_finds_setups_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("made_up")
    module.plain = lambda: Outcome((1.0, 1.0), "plain", "counted")  # type: ignore[attr-defined]
    module.told = lambda claim: Outcome((2.0, 2.0), claim.key, "counted")  # type: ignore[attr-defined]
    module.wrong = lambda: 3.0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "twofold.claims.setups.made_up", module)
    assert ledger.resolve("other", replace(CLAIM, setup="made_up:plain")).why == "plain"
    assert ledger.resolve("made-up", replace(CLAIM, setup="told")).why == "speed"
    with pytest.raises(AssertionError, match="returned float"):
        ledger.resolve("made-up", replace(CLAIM, setup="wrong"))
    with pytest.raises(ModuleNotFoundError):
        ledger.resolve("nowhere", CLAIM.__class__(**{**_fields(CLAIM), "setup": "nowhere:to_be_found"}))


def _fields(claim: Claim) -> dict[str, object]:
    return {name: getattr(claim, name) for name in Claim.__slots__}


def test_outcomes_are_finite_and_ordered() -> None:
    with pytest.raises(AssertionError, match="low <= high"):
        Outcome((2.0, 1.0), "", "")
    with pytest.raises(AssertionError, match="finite"):
        Outcome((float("nan"), 1.0), "", "")


def test_tables() -> None:
    rows = [run((2.5, 2.6)), run((0.5, 0.5)), run((0, 0), replace(CLAIM, setup=None, why_not="none"))]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(ledger.render(rows))
    printed = console.export_text()
    assert "2.50× to 2.60×" in printed
    assert "not comparable" in printed
    assert "1 reproduced, 1 not reproduced, 1 not comparable" in printed
