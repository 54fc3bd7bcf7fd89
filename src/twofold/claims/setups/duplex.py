"""Duplex's headline comparison: Mixtral on four devices and GLaM on eight, 32 to 128 requests at a time whose
next one comes when one ends, against as many H100s.

A request's prompt is a mixed step with all others, the rest of the steps only decode; a cycle of `output`
steps with `batch` prompts among them yields batch · output tokens. Contexts are those of requests half way.
The H100s spread experts, Duplex cuts them (its configuration with co-processing). Grok-1 is left out: the
source has it on two nodes, which this machine's links do not span.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import mean
from typing import Any, NamedTuple

from twofold.claims.ledger import Outcome
from twofold.devices.machine import Machine
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import is_machine, make_device
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.parallel import Parallel
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.techniques.base import Claim


class Case(NamedTuple):
    """`batch` requests of `length` tokens in and as many out, of a model on `tp` devices."""

    model: str
    tp: int
    batch: int
    length: int


_BATCHES = (32, 64, 128)
MIXTRAL = tuple(Case("mixtral-8x7b", 4, batch, n) for batch in _BATCHES for n in (256, 1024, 4096))
GLAM = tuple(Case("glam-8b-64e", 8, batch, n) for batch in _BATCHES for n in (512, 1024, 2048))
CASES = MIXTRAL + GLAM
GPU, DUPLEX, BANKS = "h100-sxm", "duplex", "duplex-bank-pim"

_ABSTRACT, _TEXT = "arXiv:2409.01141, abstract", "arXiv:2409.01141, section VII"
_GPUS, _MODELS = "as many NVIDIA H100 (simulated)", "Mixtral 8x7B, GLaM and Grok-1, 32 to 128 requests"
_HARDWARE = "Duplex (simulated)"


def _claim(key: str, figure: str, claimed: float, unit: str, source: str, setup: str, **other: str) -> Claim:
    baseline, model = other.get("baseline", _GPUS), other.get("model", _MODELS)
    return Claim(key, figure, (claimed, claimed), unit, baseline, model, _HARDWARE, source, setup)


CLAIMS = (
    _claim("duplex-throughput", "throughput ratio, greatest", 2.67, "x", _ABSTRACT, "throughput"),
    _claim("duplex-energy", "energy saved per token, most", 42.0, "%", _ABSTRACT, "energy"),
    _claim("duplex-throughput-mean", "throughput ratio, mean", 2.07, "x", _TEXT, "throughput"),
    _claim("duplex-energy-mean", "energy saved per token, mean", 28.19, "%", _TEXT, "energy"),
    _claim("duplex-tbt", "time between tokens saved, median", 58.3, "%", _TEXT, "tbt", model="GLaM"),
    _claim(
        "duplex-bank-pim",
        "throughput ratio, mean",
        1.49,
        "x",
        _TEXT,
        "over_bank_pim",
        baseline="H100 with PIM in its banks (simulated)",
        model="Mixtral 8x7B",
    ),
)


class Serving(NamedTuple):
    """Tokens per second, joules per token, seconds between tokens of a step that only decodes."""

    rate: float
    joules: float
    between: float


@lru_cache(maxsize=4)
def _model(name: str, tp: int, ep: int) -> Transformer:
    return build_model(get_spec(name), ModelOptions(precision="fp16", parallel=Parallel(tp=tp, ep=ep)))


def serve(device: ModelledDevice, model: Transformer, case: Case) -> Serving:
    """Continuous batching in the long run."""

    def step(spans: list[Span]) -> tuple[float, float]:
        device.begin_step()
        device.forward(model, StepInput(spans, sum(s.queries for s in spans), len(spans)))
        cost = device.end_step()
        assert cost.joules is not None
        return cost.seconds, cost.joules

    decoding = [Span(1, case.length + case.length // 2)] * (case.batch - 1)
    alone = step([*decoding, decoding[0]])
    mixed = step([*decoding, Span(case.length, case.length)])
    prompts = case.batch
    seconds, joules = ((case.length - prompts) * a + prompts * m for a, m in zip(alone, mixed, strict=True))
    tokens = case.batch * case.length
    return Serving(tokens / seconds, joules / tokens, alone[0])


@lru_cache(maxsize=64)
def _served(name: str, case: Case) -> Serving:
    machine = is_machine(name)
    device = make_device(name, tp=case.tp, ep=1 if machine else case.tp)
    assert isinstance(device, ModelledDevice)
    return serve(device, _model(case.model, case.tp, 1 if machine else case.tp), case)


def _found(values: dict[Case, float], claim: Claim, why: str) -> Outcome:
    """The greatest or the mean of `values`, as the claim has it."""
    value = max(values.values()) if "mean" not in claim.figure else mean(values.values())
    spread = "; ".join(
        f"{name} {min(own):.3g} to {max(own):.3g}, mean {mean(own):.3g}"
        for name in dict.fromkeys(case.model for case in values)
        if (own := [v for case, v in values.items() if case.model == name])
    )
    return Outcome((value, value), why, f"predicted: {len(values)} settings; {spread}")


def throughput(claim: Claim) -> Outcome:
    """Tokens per second over those of H100s."""
    ratios = {case: _served(DUPLEX, case).rate / _served(GPU, case).rate for case in CASES}
    return _found(
        ratios,
        claim,
        "four times the bandwidth for experts and attention; dense layers, messages and prompts stay with "
        "the GPU, which here reaches measured shares of its peaks and not all of them, so that it loses more",
    )


def energy(claim: Claim) -> Outcome:
    """Percent of the joules per token that H100s take."""
    saved = {case: 100 * (1 - _served(DUPLEX, case).joules / _served(GPU, case).joules) for case in CASES}
    return _found(
        saved,
        claim,
        "the source counts memory and arithmetic alone; an H100 also burns what its idle board does, its "
        "clocks and leakage while it runs or waits, and what moves each byte over its chip, as measured: all "
        "of which a step that takes less than half the time saves",
    )


def tbt() -> Outcome:
    """Percent of the seconds of a decoding step that H100s take; GLaM, 64 requests."""
    saved = [
        100 * (1 - _served(DUPLEX, case).between / _served(GPU, case).between)
        for case in GLAM
        if case.batch == 64
    ]
    return Outcome(
        (mean(saved), mean(saved)),
        "the median step only decodes: experts and attention are most of it",
        f"predicted: GLaM, 64 requests, mean of {len(saved)} lengths",
    )


def over_bank_pim(claim: Claim) -> Outcome:
    """Tokens per second over those of units in the banks."""
    ratios = {case: _served(DUPLEX, case).rate / _served(BANKS, case).rate for case in MIXTRAL}
    return _found(
        ratios,
        claim,
        "units in the banks have more bandwidth and half the arithmetic, which experts of several tokens "
        "wait for; here the xPU takes the experts of the most tokens on both",
    )


HEADLINE = "tokens/s of Mixtral 8x7B on four devices, 64 requests of 1,024 tokens in and out"


def headline(machine: Machine) -> float:
    """That, on machines with the figures of `machine`."""
    case = Case("mixtral-8x7b", 4, 64, 1024)
    return serve(machine.make(machine.figures, tp=case.tp), _model(case.model, case.tp, 1), case).rate


SHOWN: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "precision": "fp16",
    "parallel": {"tp": 4},
    "workload": {"requests": 64, "prompt": 1024, "output": 128, "concurrency": 64},
    "engine": {"max_num_seqs": 64},
}
"""What the machine's page shows in a picture: a plan."""
