"""WaferLLM's whole inferences: one request on the wafer and on A100s, and how long its output may grow.

The wafer takes the squares of cores that the source names; A100s run with SGLang's scheduler and host time,
on one card or on the eight of a node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from statistics import geometric_mean

from twofold.claims.ledger import Outcome
from twofold.claims.setups.inference import Inference, inference
from twofold.claims.setups.wafer_products import A100
from twofold.devices.machines.waferllm import WaferLlm
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.devices.wafer_figures import WaferFigures

LENGTHS = ((2048, 128), (4096, 128), (2048, 2048), (4096, 4096))
"""Prompt and output tokens of table 2."""
MODELS = {"llama-3.1-8b": (360, 660), "llama-2-13b": (375, 750)}
"""Sides of the squares of cores for tokens and for prompts (section 7.1)."""


@cache
def _on_wafer(model: str, prompt: int, output: int, decode_side: int, prefill_side: int) -> Inference:
    figures = replace(WaferFigures(), decode_side=decode_side, prefill_side=prefill_side)
    return inference(WaferLlm(figures), model, prompt, output, "plain")


@cache
def _on_gpus(model: str, prompt: int, output: int, tp: int) -> Inference:
    device = make_device(A100, tp=tp)
    assert isinstance(device, ModelledDevice)
    return inference(device, model, prompt, output, "sglang")


def _speedup(theirs: Callable[[str, int, int], float], table: str) -> Outcome:
    """The geometric mean of the wafer's speedups over both models and all lengths."""
    ratios = [
        theirs(model, *lengths) / _on_wafer(model, *lengths, *sides).seconds
        for model, sides in MODELS.items()
        for lengths in LENGTHS
    ]
    why = (
        f"{min(ratios):.1f} to {max(ratios):.1f} by model and lengths, where table 2 has {table}; the wafer "
        "decodes half as fast again here as was measured, which shows where outputs are long; of 128 tokens "
        "four fifths of its time are the prompt, on tiles of a few rows"
    )
    how = "predicted, geometric mean over both models and four lengths"
    return Outcome((geometric_mean(ratios),) * 2, why, how)


def llm() -> Outcome:
    """Against the faster of one and eight A100."""
    return _speedup(
        lambda model, prompt, output: min(_on_gpus(model, prompt, output, tp).seconds for tp in (1, 8)),
        "5.5 to 19",
    )


def llm_one() -> Outcome:
    """Against one A100."""
    return _speedup(lambda model, prompt, output: _on_gpus(model, prompt, output, 1).seconds, "19 to 80")


def llm_energy() -> Outcome:
    """Of decoding on eight A100, over the wafer's."""
    ratios = []
    for model, sides in MODELS.items():
        theirs = _on_gpus(model, 4096, 129, 8).joules - _on_gpus(model, 4096, 1, 8).joules
        ours = _on_wafer(model, 4096, 129, *sides).joules - _on_wafer(model, 4096, 1, *sides).joules
        ratios.append(theirs / ours)
    why = (
        "the source multiplies times by rated power; A100s that wait for memory and messages draw less than "
        "theirs here, the wafer nearly all of its 15 kW; and it decodes half as fast again here"
    )
    return Outcome((min(ratios), max(ratios)), why, "predicted, 128 tokens after a prompt of 4,096")


def decode() -> Outcome:
    """Tokens per second of decoding at a context of 4K."""
    start, end = (_on_wafer("llama-3.1-8b", 4096, n, 420, 660).seconds for n in (1, 129))
    speed = 128 / (end - start)
    why = (
        "counted are the instructions of products, sums over the mesh, norms and softmax, with what an "
        "instruction log shows around them. The public kernel also sums scores over all of a row of cores, "
        "as if there were one head, multiplies keys and values as wide as queries, and computes functions "
        "number by number"
    )
    return Outcome((speed, speed), why, "predicted, 128 tokens after a prompt of 4,096")


def prefill() -> Outcome:
    """Tokens per second of a prompt of 4,096."""
    speed = 4096 / _on_wafer("llama-3.1-8b", 4096, 1, 360, 720).first
    why = (
        "on 720 x 720 cores a tile has six rows, and what surrounds its instructions takes four fifths of "
        "the time. The public kernel computes norms, softmax and rotations row by row, which is not counted"
    )
    return Outcome((speed, speed), why, "predicted, time to the first token")


def capacity() -> Outcome:
    """Tokens that fit where each row of cores keeps as many, over those that fit in the last row."""
    ratios = []
    for sides in MODELS.values():
        figures = replace(WaferFigures(), decode_side=sides[0])
        free = figures.cores * figures.core.nbytes // figures.decode_side
        ratios.append(free * figures.decode_side / free)
    why = "what one row of cores has room for, over all rows: the side of the square, whatever weights take"
    return Outcome((min(ratios), max(ratios)), why, "counted")
