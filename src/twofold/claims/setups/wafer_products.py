"""WaferLLM's single products: on the wafer, on A100s, and on the wafer with other algorithms."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import geometric_mean

from twofold.claims.ledger import Outcome
from twofold.devices.machines.waferllm import WaferLlm
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import machine_class, make_device
from twofold.devices.wafer_figures import WaferFigures
from twofold.ops import AllReduce, Linear, Op
from twofold.techniques.base import Claim

A100 = "a100-80g-sxm"
TWICE_16K, TWICE_32K = "[1, 16K] x [16K, 16K]", "[1, 32K] x [32K, 32K]"
SUMMA = "the same wafer with SUMMA"
SIDES = range(360, 721, 60)
"""Squares of cores that the source's figures 9 and 10 go through."""


def product(size: int, tokens: int = 1, parts: int = 1) -> Linear:
    """[tokens, size] x [size, size] in 16 bits, or one of `parts` equal shares of the inner dimension."""
    inner = size // parts
    return Linear(tokens, inner, size, "f16", 2 * inner * size, "fp16", 2)


def seconds(device: ModelledDevice, *ops: Op) -> float:
    """Of `ops`, one after the other."""
    return sum(device.charge(op, op.cost()).seconds for op in ops)


def joules(device: ModelledDevice, op: Op) -> float:
    """Of `op`, idle power included."""
    charge = device.charge(op, op.cost())
    return charge.joules + device.idle_watts * charge.seconds


def wafer(figures: WaferFigures, side: int) -> WaferLlm:
    """The wafer with all on a square of `side` cores."""
    return WaferLlm(replace(figures, decode_side=side, prefill_side=side))


def best_wafer(size: int, figures: WaferFigures | None = None) -> WaferLlm:
    """With the square on which a vector times a [size, size] matrix is fastest, as the source tunes."""
    found = [wafer(figures or WaferFigures(), side) for side in SIDES]
    return min(found, key=lambda machine: seconds(machine, product(size)))


@cache
def gpu(tp: int = 1) -> ModelledDevice:
    device = make_device(A100, tp=tp)
    assert isinstance(device, ModelledDevice)
    return device


def gemv(claim: Claim) -> Outcome:
    """Against one A100."""
    size = 32768 if claim.model == TWICE_32K else 16384
    op, on = product(size), best_wafer(size)
    ours, theirs = seconds(on, op), seconds(gpu(), op)
    measured = (0.00203, 1.231) if size == 32768 else (0.0012, 0.336)
    why = (
        f"the wafer takes {ours * 1e6:.2f} us (measured {measured[0] * 1e3:.2f}) on a square of side "
        f"{on.figures.decode_side}, the A100 {theirs * 1e3:.2f} ms (measured {measured[1]:.2f})"
    )
    return Outcome((theirs / ours,) * 2, why, "predicted, both devices op by op")


def gemv_8() -> Outcome:
    """Against eight A100 that each hold an eighth of the inner dimension and sum their results."""
    ratios = []
    for size in (16384, 32768):
        theirs = seconds(gpu(8), product(size, parts=8), AllReduce(2 * size, 8, "tp"))
        ratios.append(theirs / seconds(best_wafer(size), product(size)))
    why = (
        "eight A100 were measured at 0.25 and 0.34 ms, little faster than one; here they take an eighth of "
        "the time of one and a sum over NVLink, as a fused step of a serving engine would"
    )
    return Outcome((min(ratios), max(ratios)), why, "predicted, both devices op by op")


def gemv_energy() -> Outcome:
    """Against one A100."""
    op, on = product(32768), best_wafer(32768)
    ours = joules(gpu(), op) / joules(on, op)
    rated = seconds(gpu(), op) * 400 / (seconds(on, op) * on.figures.watts)
    why = (
        f"energy is counted on both sides; the source's ratio is that of times at 15 kW and 400 W, which "
        f"gives {rated:.1f} here"
    )
    return Outcome((ours, ours), why, "predicted, counted energy and idle power of both")


def _same_wafer(name: str, side: int) -> WaferLlm:
    machine = machine_class(name).make(wafer(WaferFigures(), side).figures)
    assert isinstance(machine, WaferLlm)
    return machine


def gemv_pipeline() -> Outcome:
    """Against the same square of cores with pipelined all-reduce."""
    ratios = []
    for size in (2048, 8192, 16384):
        times = [_same_wafer(name, 720).gemv(1, size, size).seconds for name in ("wse2-pipeline", "waferllm")]
        ratios.append(times[0] / times[1])
    why = "chains of 719 routings become two of 13; what is left of the ratio is multiplying"
    return Outcome((min(ratios), max(ratios)), why, "predicted, sizes 2K, 8K and 16K")


def gemm(claim: Claim) -> Outcome:
    """Against the same square of cores with another algorithm: the geometric mean over sizes."""
    name = "wse2-pipeline" if claim.baseline == SUMMA else "wse2-cannon"
    ratios = []
    for size in (2048, 4096, 8192):
        theirs, ours = (_same_wafer(n, 720).gemm(size, size, size).seconds for n in (name, "waferllm"))
        ratios.append(theirs / ours)
    other = (
        "Its analysis has every core on the way route a broadcast by software; models of its public kernel, "
        "which takes the SDK's collectives, find a start of 640 cycles instead, whatever the distance"
        if claim.baseline == SUMMA
        else "Where cores wait for neighbours alone, a ring's long way is paid once a turn, and the two tie"
    )
    why = (
        f"{min(ratios):.1f} to {max(ratios):.1f} by size: every round waits for its slowest message, as the "
        "source analyses them, and for the instructions of a core. " + other
    )
    return Outcome((geometric_mean(ratios),) * 2, why, "predicted, geometric mean over sizes")
