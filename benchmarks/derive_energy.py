"""Derive the section `energy` of `devices/catalog/generations/{hopper,blackwell}.yaml` from public
measurements.

Usage: python benchmarks/derive_energy.py

Reads validate/public/energy.yaml (mean power of H100 and B200 while vLLM serves Llama 3.1 and Qwen3 at given
batch sizes). At the measured tokens/s, FLOP/s and bytes/s follow by counting, and three parameters are fitted
to the power under Llama, for both devices together (least squares of relative errors, where the power limit
does not hide them): what clocks and leakage draw while ops run, joules per FLOP, joules per byte moved over
the chip. On one device alone the first and the last could not be told apart, since it is busy whenever it
reads. The error is printed for Llama and for Qwen3, which was not used.
"""

from __future__ import annotations

from importlib import resources
from statistics import mean, quantiles
from typing import Any, NamedTuple

import numpy as np
import yaml

from twofold.devices.base import OpTotals
from twofold.devices.catalog import energy_table, get_device
from twofold.devices.schema import DeviceFile
from twofold.jobs.steps import StepPredictor
from twofold.ops.attention import Span
from twofold.plan import Plan

FITTED = "llama"
NEAR_LIMIT = 0.9


class Rates(NamedTuple):
    """One measurement: the device, watts drawn, share of the time spent in ops, FLOP/s and bytes/s of one
    device."""

    device: DeviceFile
    name: str
    watts: float
    busy: float
    flops: float
    bytes_per_s: float


def counted(figure: dict[str, Any]) -> Rates:
    """What the work of one figure amounts to per second at its measured speed."""
    load, count = figure["workload"], figure["count"]
    batch, prompt = round(load["concurrency"]), load["prompt"]
    plan = Plan.from_dict(
        {
            "model": figure["model"],
            "precision": figure["precision"],
            "parallel": {"tp": count},
            "engine": {"max_context": 2 * round(prompt + load["decoded"])},
        }
    )
    steps = StepPredictor(plan, figure["device"])

    def work(spans: list[Span]) -> OpTotals:
        steps.device.reset_totals()
        steps.step(spans)
        total = OpTotals()
        for part in steps.device.totals.values():
            total.seconds += part.seconds
            total.flop += part.flop
            total.bytes_moved += part.bytes_moved
        return total

    decode = work([Span(1, round(prompt + load["decoded"]))] * batch)
    prefill = work([Span(prompt, prompt)])
    share = batch / load["output"]  # prompts that begin per step
    seconds = load["concurrency"] / figure["tokens_per_s"]
    return Rates(
        get_device(figure["device"]),
        figure["name"],
        figure["watts"],
        min(1.0, (decode.seconds + share * prefill.seconds) / seconds),
        (decode.flop + share * prefill.flop) / seconds,
        (decode.bytes_moved + share * prefill.bytes_moved) / seconds,
    )


def terms(rates: Rates) -> tuple[float, list[float]]:
    """Watts that are known, and what each parameter is multiplied with."""
    file = rates.device
    memory = energy_table().memory[file.memory.technology].value
    known = file.power.idle.value + memory * rates.bytes_per_s
    return known, [rates.busy * file.power.limit.value, rates.flops, rates.bytes_per_s]


def fit(points: list[Rates]) -> np.ndarray[Any, Any]:
    """The three parameters."""
    rows, targets = [], []
    for rates in points:
        if rates.watts < NEAR_LIMIT * rates.device.power.limit.value:
            known, factors = terms(rates)
            rows.append([factor / rates.watts for factor in factors])
            targets.append((rates.watts - known) / rates.watts)
    scale = np.abs(rows).max(axis=0)
    solution, *_ = np.linalg.lstsq(np.array(rows) / scale, np.array(targets), rcond=None)
    return np.asarray(solution / scale)


def main() -> None:
    """Fit, and print the parameters and their errors."""
    text = (resources.files("twofold.validate") / "public" / "energy.yaml").read_text(encoding="utf-8")
    points = [counted(figure) for figure in yaml.safe_load(text)["figures"] if "watts" in figure]
    fitted = [rates for rates in points if rates.name.startswith(FITTED)]
    parameters = fit(fitted)
    active, flop, transport = parameters
    wires = f"{transport * 1e12:.0f} pJ/B over the chip"
    print(f"active {active:.3f} of the limit, {flop * 1e12:.2f} pJ/FLOP, {wires}")
    groups = sorted({(rates.device.name, rates.name.startswith(FITTED)) for rates in points})
    for device, used in groups:
        errors = []
        for rates in points:
            if (rates.device.name, rates.name.startswith(FITTED)) != (device, used):
                continue
            known, factors = terms(rates)
            watts = min(known + float(parameters @ factors), rates.device.power.limit.value)
            errors.append(watts / rates.watts - 1)
            print(f"  {rates.name:34s} {rates.watts:6.0f} W, modelled {watts:6.0f} W, busy {rates.busy:4.0%}")
        sizes = [abs(error) for error in errors]
        print(
            f"{device} ({'fitted' if used else 'not used'}): {len(errors)} points, mean error "
            f"{mean(sizes):.1%}, 90 % within {quantiles(sizes, n=10)[-1]:.1%}, bias {mean(errors):+.1%}"
        )


if __name__ == "__main__":
    main()
