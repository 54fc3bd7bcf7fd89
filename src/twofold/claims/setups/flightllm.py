"""FlightLLM's headline comparison: one request of Llama-2-7B or OPT-6.7B at a time, prompts of 128 and 512
tokens and answers of 512, 1,024 and 1,536 (the cases of the source's artefact), against a V100S and an A100
with vLLM and SmoothQuant.

The machine's weights are 4-bit integers in groups of 32, its activations and its cache 8-bit. The source's
weights are a mix of 3 to 5 bits of which blocks keep some: 3.8 bits a weight with what says which, by the
bytes that its artefact loads; here they are 4.25 and dense, since a plan has one weight format.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from twofold.claims.ledger import Outcome
from twofold.devices.machine import Machine
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan
from twofold.techniques.base import Claim

CASES = tuple((prompt, output) for prompt in (128, 512) for output in (512, 1024, 1536))
MODELS = ("llama-2-7b", "opt-6.7b")
PRICES = {"flightllm": 8000.0, "v100s": 12000.0}
"""Dollars of a card. An assumption: the source has a table of prices, which could not be read."""

OURS: dict[str, Any] = {
    "precision": "fp16",
    "techniques": ["int-vs-fp:format=mxint4,activations=mxint8,lm_head=true"],
    "engine": {"max_num_seqs": 1, "cache_format": "int8"},
}
_THEIRS: dict[str, Any] = {
    "precision": "fp16",
    "techniques": ["smoothquant"],
    "engine": {"max_num_seqs": 1, "serving": "vllm-sync"},
}
_PLAIN = _THEIRS | {"techniques": []}
"""What the artefact's script runs on GPUs: vLLM in fp16, not quantised."""

_ABSTRACT = "arXiv:2401.03868, abstract"
_README = "github.com/FlightLLM/flightllm_test_demo @4a96251, README.md and profile/README.md"
_U280, _VHK158 = "Alveo U280 (measured)", "Versal VHK158 (simulated)"
_GPU = "{}, vLLM and SmoothQuant, batch 1"
_SEVEN = "Llama-2-7B"

CLAIMS = (
    Claim(
        "flightllm-energy",
        "energy efficiency ratio",
        (6.0, 6.0),
        "x",
        _GPU.format("NVIDIA V100S"),
        _SEVEN,
        _U280,
        _ABSTRACT,
        "energy",
    ),
    Claim(
        "flightllm-cost",
        "tokens per second and dollar, ratio",
        (1.8, 1.8),
        "x",
        _GPU.format("NVIDIA V100S"),
        _SEVEN,
        _U280,
        _ABSTRACT,
        "cost",
    ),
    Claim(
        "flightllm-vhk158",
        "throughput ratio",
        (1.2, 1.2),
        "x",
        _GPU.format("NVIDIA A100"),
        _SEVEN,
        _VHK158,
        _ABSTRACT,
        "throughput",
    ),
    Claim(
        "flightllm-rate",
        "decode rate",
        (55.0, 55.0),
        "tokens/s",
        "none",
        _SEVEN,
        _U280,
        _README,
        "rate",
    ),
    Claim(
        "flightllm-vhk158-rate",
        "decode rate",
        (90.1, 103.5),
        "tokens/s",
        "none",
        _SEVEN,
        _VHK158,
        _README,
        "rate_vhk158",
    ),
)

_HOW = "predicted: {} case(s) of 128 or 512 tokens in and 512 to 1,536 out, one request at a time"


class Run(NamedTuple):
    """Of one request: seconds in all and until its first token, joules, tokens that it yields."""

    seconds: float
    first: float
    joules: float
    tokens: int

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first."""
        return (self.tokens - 1) / (self.seconds - self.first)


def generate(device: ModelledDevice, model: str, how: dict[str, Any], prompt: int, output: int) -> Run:
    """One request alone on `device`, played by the engine; how: precision, techniques, engine of its plan."""
    plan = Plan.from_dict({"model": model, "workload": {"prompt": prompt, "output": output}, **how})
    engine = build_engine(plan, device, get_spec(model))
    done = engine.play([(0.0, prompt, SamplingParams(max_tokens=output, ignore_eos=True))])
    engine.check_techniques()
    request = next(iter(done))
    joules = engine.totals.joules
    assert joules is not None
    assert request.first_token_time is not None
    first = request.first_token_time - request.arrival_time
    return Run(engine.totals.busy_seconds, first, joules, output)


@cache
def _runs(device: str, model: str, kind: str) -> tuple[Run, ...]:
    how = {"ours": OURS, "theirs": _THEIRS, "plain": _PLAIN}[kind]
    made = make_device(device)
    assert isinstance(made, ModelledDevice)
    return tuple(generate(made, model, how, prompt, output) for prompt, output in CASES)


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _ratios(ours: str, theirs: str, model: str, kind: str, *, joules: bool = False) -> tuple[float, float]:
    pairs = zip(_runs(ours, model, "ours"), _runs(theirs, model, kind), strict=True)
    return _span([(b.joules / a.joules) if joules else (b.seconds / a.seconds) for a, b in pairs])


def _text(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


def energy() -> Outcome:
    """Joules of a request on the V100S over those on the U280."""
    found = _ratios("flightllm", "v100s", _SEVEN.lower(), "theirs", joules=True)
    plain = _ratios("flightllm", "v100s", _SEVEN.lower(), "plain", joules=True)
    opt = _ratios("flightllm", "v100s", "opt-6.7b", "theirs", joules=True)
    return Outcome(
        found,
        "the V100S is predicted as software that streams int8 weights at its memory's pace. Against vLLM in "
        f"fp16, as the artefact's script runs it: {_text(plain)}. The source's measured watts and rates of "
        "the V100S could not be read",
        _HOW.format(len(CASES)) + f"; OPT-6.7B: {_text(opt)}",
    )


def cost() -> Outcome:
    """Tokens per second and dollar on the U280 over those on the V100S."""
    dearer = PRICES["v100s"] / PRICES["flightllm"]
    low, high = _ratios("flightllm", "v100s", _SEVEN.lower(), "theirs")
    plain = _ratios("flightllm", "v100s", _SEVEN.lower(), "plain")
    return Outcome(
        (low * dearer, high * dearer),
        "prices are an assumption ($8,000 and $12,000): the source's could not be read. The V100S is as in "
        f"the row on energy; against fp16: {_text((plain[0] * dearer, plain[1] * dearer))}",
        _HOW.format(len(CASES)),
    )


def throughput() -> Outcome:
    """Seconds of a request on the A100 over those on the VHK158."""
    found = _ratios("flightllm-vhk158", "a100-80g-pcie", _SEVEN.lower(), "theirs")
    plain = _ratios("flightllm-vhk158", "a100-80g-pcie", _SEVEN.lower(), "plain")
    return Outcome(
        found,
        "the artefact prints 0.92 to 1.10 for these cases, against vLLM in fp16 at 86 to 89 tokens/s; "
        f"against fp16 ours is {_text(plain)}. Which A100 it was could not be read (here the PCIe card with "
        "80 GB)",
        _HOW.format(len(CASES)),
    )


def rate() -> Outcome:
    """Tokens per second of the U280, shortest case."""
    found = _runs("flightllm", "llama-2-7b", "ours")[0].decode_rate
    return Outcome(
        (found, found),
        "three of four groups of HBM channels feed cores, at 56 % of their bandwidth; attention over the "
        "8-bit cache is multiplied in 16 bits here",
        _HOW.format(1),
    )


def rate_vhk158() -> Outcome:
    """Tokens per second of the VHK158."""
    found = _span([run.decode_rate for run in _runs("flightllm-vhk158", "llama-2-7b", "ours")])
    return Outcome(
        found,
        "products with one token are bound by the buffers that feed the multipliers, as in the artefact",
        _HOW.format(len(CASES)),
    )


# --- the machine's page ---

HEADLINE = "joules of a V100S with vLLM and SmoothQuant over its own (Llama-2-7B, 128 tokens in, 512 out)"
SHOWN: dict[str, Any] = {"model": "llama-2-7b", "workload": {"prompt": 128, "output": 512}, **OURS}


def headline(machine: Machine) -> float:
    """HEADLINE for a machine with any figures."""
    ours = generate(machine, "llama-2-7b", OURS, *CASES[0])
    return _runs("v100s", "llama-2-7b", "theirs")[0].joules / ours.joules
