"""Cambricon-LLM: products are shared between flash and NPU, the cache has a memory of its own."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from twofold.devices.machine import with_number
from twofold.devices.machines.cambricon_llm import CambriconFigures, CambriconLlm
from twofold.devices.machines.cambricon_llm_m import CambriconLlmM
from twofold.devices.machines.cambricon_llm_s import CambriconLlmS
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.memory import DoesNotFitError
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.ops import Attention, Copy, Linear, LookUpLinear
from twofold.ops.attention import Span, total_spans
from twofold.plan import Plan


def product(tokens: int = 1, rows: int = 4096, columns: int = 4096, bits: int = 8) -> Linear:
    compute = "int8" if bits == 8 else "bf16"
    return Linear(tokens, columns, rows, f"int{bits}", rows * columns * bits // 8, compute, 2)


def test_its_parts_work_at_the_same_time() -> None:
    """A product takes less than the cores alone and than the channels alone would."""
    machine = CambriconLlmS()
    op = product()
    charge = machine.charge(op, op.cost())
    assert charge.seconds < op.weight_bytes / machine.flash.core_bandwidth
    assert charge.seconds < 0.5 * op.weight_bytes / machine.nand.bus_bandwidth
    assert charge.bound == "compute"
    whole = op.weight_bytes / (machine.flash.core_bandwidth + machine.nand.bus_bandwidth)
    assert whole < charge.seconds < 1.15 * whole


def test_more_flash_is_faster() -> None:
    """L over M over S; on the largest the smaller matrices lose a part of a round."""
    op = product(rows=16384)
    small, middle, large = (
        cls().charge(op, op.cost()).seconds for cls in (CambriconLlmS, CambriconLlmM, CambriconLlm)
    )
    assert small > 3 * middle > 6 * large


def test_prompts_are_the_npus() -> None:
    """The cores' few multipliers take no part in them: time is that of the channels or of the array."""
    machine = CambriconLlm()
    op = product(tokens=512)
    charge = machine.charge(op, op.cost())
    assert charge.seconds >= op.cost().flop / (2 * machine.figures.array.macs_per_second)
    assert charge.bound == "memory"


def test_narrow_weights_are_read_faster() -> None:
    """4 bits are half the pages of 8; the energy is that of pages."""
    machine = CambriconLlmS()
    eight, four = (machine.charge(op, op.cost()) for op in (product(bits=8), product(bits=4)))
    assert four.seconds == pytest.approx(eight.seconds / 2, rel=0.1)
    assert four.joules == pytest.approx(eight.joules / 2, rel=0.1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_work_as_they_are(precision: str) -> None:
    """A plan without techniques can be moved there."""
    plan = Plan.from_dict(
        {"model": "llama-2-7b", "precision": precision, "workload": {"prompt": 64, "output": 8}}
    )
    steps = StepPredictor(plan, make_device("cambricon-llm-s"), spec=get_spec("llama-2-7b"))
    one, batch = steps.step([Span(1, 500)]).seconds, steps.step([Span(1, 500)] * 16).seconds
    assert one < batch < 16 * one


def test_cache_lies_in_dram() -> None:
    """A decode step's attention takes the cache's bytes over DRAM's bandwidth; DRAM bounds how much fits."""
    machine = CambriconLlm()
    read = 2 * 2 * 32 * 128 * 1000
    op = Attention(total_spans([Span(1, 1000)]), 32, 32, 128, 128, read, "bf16", 2)
    charge = machine.charge(op, op.cost())
    assert charge.seconds == pytest.approx(read / 40e9, rel=0.1)
    slower = CambriconLlm(with_number(CambriconFigures(), "dram_bandwidth", 20e9))
    assert slower.charge(op, op.cost()).seconds > 1.8 * charge.seconds
    plan = Plan.from_dict({"model": "opt-13b", "workload": {"prompt": 1000, "output": 24}})
    engine = build_engine(plan, machine, get_spec("opt-13b"))
    assert engine.memory.cache <= machine.figures.dram_bytes < engine.memory.weights


def test_cache_that_dram_cannot_hold_is_refused() -> None:
    """Although the flash has room."""
    plan = Plan.from_dict({"model": "opt-66b", "workload": {"prompt": 1500, "output": 24}})
    with pytest.raises(DoesNotFitError, match="cache"):
        build_engine(plan, make_device("cambricon-llm"), get_spec("opt-66b"))


def test_what_it_cannot_do_is_refused() -> None:
    """With the reason and what to do instead."""
    machine = CambriconLlm()
    op = product()
    table = LookUpLinear(1, 64, 64, "bcq", 512, "bf16", 2)
    with pytest.raises(ValueError, match="smoothquant"):
        machine.charge(table, table.cost())
    far = replace(op, space="host")
    with pytest.raises(ValueError, match="flash holds them"):
        machine.charge(far, far.cost())
    wide = replace(op, compute="fp32")
    with pytest.raises(ValueError, match="plan with precision bf16"):
        machine.charge(wide, wide.cost())
    copy = Copy(1024, "host", "device")
    with pytest.raises(ValueError, match="no memory 'host'"):
        machine.charge(copy, copy.cost())


def test_figures_are_checked() -> None:
    """By their names."""
    with pytest.raises(ValueError, match="dram_bandwidth"):
        CambriconFigures(dram_bandwidth=0.0)
    with pytest.raises(ValueError, match="idle_watts"):
        CambriconFigures(idle_watts=-1.0)


def test_steps_are_fast_to_predict() -> None:
    """A thousand steps a second and more, each of another length."""
    plan = Plan.from_dict({"model": "llama-2-7b", "workload": {"prompt": 64, "output": 64}})
    steps = StepPredictor(plan, make_device("cambricon-llm"), spec=get_spec("llama-2-7b"))
    steps.step([Span(1, 64)])
    before = time.process_time()
    for keys in range(65, 265):
        steps.step([Span(1, keys)])
    assert time.process_time() - before < 0.2
