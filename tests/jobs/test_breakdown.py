"""Breakdowns by module: the same steps measured and predicted, every op in a module, sums that hold."""

from __future__ import annotations

import pytest
from tests.models.tiny import tiny_gguf

from twofold.devices.catalog import get_device
from twofold.jobs.breakdown import Breakdown, ChargedByModule, breakdown_plan
from twofold.jobs.steps import StepPredictor
from twofold.models.modules import MODULES, ModuleNames
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.report import breakdown as report

DENSE = {
    "embedding",
    "norms and residuals",
    "qkv",
    "rotary",
    "cache write",
    "attention",
    "attention output",
    "mlp up",
    "mlp activation",
    "mlp down",
    "lm head",
    "sampling",
    "host",
}


def plan(**changes: object) -> Plan:
    """A small request of Llama-3.1-8B on an H100."""
    values: dict[str, object] = {
        "model": "llama-3.1-8b",
        "device": "h100-sxm",
        "workload": {"prompt": 128, "output": 8, "concurrency": 2},
    }
    return Plan.from_dict({**values, **changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[Breakdown]:
    """The tiny model here and on an H100."""
    model = tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    load = {"prompt": 24, "output": 6, "concurrency": 2}
    return breakdown_plan(
        Plan.from_dict({"model": str(model), "device": "cpu", "workload": load, "engine": {"threads": 1}}),
        ["h100-sxm"],
    )


def test_every_module_is_measured(measured: list[Breakdown]) -> None:
    here = measured[0]
    assert (here.device, here.confidence) == ("cpu", "measured")
    prefill, decode = here.phases
    assert (prefill.tokens, decode.tokens) == (48, 10)
    for phase in here.phases:
        assert set(phase.seconds) == DENSE
        assert all(seconds >= 0 for seconds in phase.seconds.values())
        assert phase.seconds["mlp up"] > 0
        assert phase.seconds["attention"] > 0


def test_the_same_steps_are_predicted(measured: list[Breakdown]) -> None:
    there = measured[1]
    assert there.device == "h100-sxm"
    assert [phase.tokens for phase in there.phases] == [48, 10]
    assert set(there.phases[0].seconds) == DENSE


def test_modules_of_a_prediction_add_up_to_its_steps() -> None:
    (found,) = breakdown_plan(plan(), [])
    steps = StepPredictor(plan(engine={"max_context": 256, "max_num_batched_tokens": 256}), "h100-sxm")
    prefill = steps.step([Span(128, 128)] * 2, 2).seconds
    decode = sum(steps.step([Span(1, 128 + i)] * 2, 2).seconds for i in range(1, 8))
    # A prediction walks through one layer of a kind, a breakdown through all: the first layer's norm differs.
    assert found.phases[0].total == pytest.approx(prefill, rel=0.02)
    assert found.phases[1].total == pytest.approx(decode, rel=0.02)
    assert found.phases[0].seconds["host"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "tp"), [("llama-3.1-8b", 1), ("mixtral-8x7b", 2), ("deepseek-v3", 16), ("gpt2", 1)]
)
def test_every_op_belongs_to_a_module(model: str, tp: int) -> None:
    values = {"model": model, "parallel": {"tp": tp}, "engine": {"max_context": 128}}
    steps = StepPredictor(Plan.from_dict(values), "b200")
    transformer = steps.engine.runner.model
    device = ChargedByModule(steps.device, ModuleNames(transformer))
    transformer.forward(StepInput([Span(16, 16)], 16, 1), device)
    assert set(device.modules) <= set(MODULES)
    assert ("experts" in device.modules) == (transformer.spec.experts is not None)


def test_communication_is_a_module() -> None:
    (found,) = breakdown_plan(plan(parallel={"tp": 4}), [])
    assert found.phases[0].seconds["communication"] > 0


def test_serving_software_is_host_time() -> None:
    (found,) = breakdown_plan(plan(model="gpt2", engine={"serving": "vllm-sync"}), [])
    assert found.phases[1].seconds["host"] > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workload": {"prompt": 8, "output": 1}}, "at least 2 tokens"),
        ({"workload": {"prompt": 10**6, "output": 8}}, "exceed the context"),
        ({"device": "cuda"}, "only be predicted"),
    ],
)
def test_what_cannot_be_broken_down_is_said(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        breakdown_plan(plan(**changes), [])


def test_the_report_shows_all_modules(measured: list[Breakdown]) -> None:
    grid = report.grid(measured, 0)
    assert [line.cells[0] for line in grid.lines[:-2]] == [name for name in MODULES if name in DENSE]
    assert grid.lines[-2].cells[2] == "100%"
    picture = report.picture(measured)
    assert "cpu, measured" in picture.svg
    records = report.records(measured)
    assert records[0]["phases"]["decode"]["modules"].keys() == DENSE
    assert get_device("h100-sxm").confidence == records[1]["confidence"]
