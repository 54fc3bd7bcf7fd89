"""The comparisons of arXiv:2012.09852: attention of GPT-2 small and medium for 32 tokens after 992, the
source's workload for generation. Half of the source's 30 benchmarks is BERT, which reads all of its tokens at
once and generates none: no model here is an encoder, and the technique prunes what is generated alone.

Shares that are left: those of the source's workloads (github.com/mit-han-lab/spatten): GPT-2 medium's are the
technique's own, GPT-2 small's are a tenth of the tokens, all heads and a fifth of the values, on the depths
of medium. Devices are compared by what their attention takes, and draws while it does. TITAN Xp and Xeon run
an eager framework, whose host time per layer is a published measurement (setups/pim_gpt.py); half of it is
attention's, which is the least that the source says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.claims.setups.pim_gpt import EAGER
from twofold.devices.machine import Machine
from twofold.devices.machines.spatten import EIGHTH, Spatten
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan
from twofold.techniques.attention.spatten import Spatten as Technique

PROMPT, OUTPUT = 992, 32
MODELS: Mapping[str, str] = {
    "gpt2-small": "spatten:tokens=0.1,heads=1.0,values=0.2",
    "gpt2-medium": "spatten",
}
"""Each with the technique as its workload has it."""

_LOAD = BatchLoad(1, PROMPT, OUTPUT)
_GPU, _CPU = "titan-xp", "xeon-e5-2640-v4"
CLAIMS = Technique.claims

_WHY_CHIPS = (
    "both baselines read every entry (here of 8 bits), and generation waits for reads: what they skip is "
    "work, so that they tie, and a figure near the source's is so by chance. Its own are of BERT, where "
    "multipliers are what limits; no model here is an encoder"
)
_WHY_HOSTS = (
    "an eager framework's host time decides these; against baselines as fast as their memory allows they are "
    "{low:.1f} to {high:.1f}. The source measures BERT too, and kernels that copy and transpose"
)
_HOW = "predicted: GPT-2 small and medium, 32 tokens after 992, attention alone"


class Spent(NamedTuple):
    """On attention while tokens are generated: seconds, and joules with what is drawn meanwhile anyway."""

    seconds: float
    joules: float


def attention(
    device: ModelledDevice, model: str, precision: str, *, tokens: int = OUTPUT, **how: Any
) -> Spent:
    """Of `tokens` behind the first; how: techniques and engine of the plan."""
    engine = build_engine(
        Plan.from_dict(
            {
                "model": model,
                "precision": precision,
                "workload": {"prompt": PROMPT, "output": tokens + 1},
                "techniques": how.get("techniques", []),
                "engine": {"max_num_seqs": 1, "prefix_caching": False, **how.get("engine", {})},
            }
        ),
        device,
        get_spec(model),
    )
    spent = []
    for output in (tokens + 1, 1):
        device.totals = {}
        engine.play([(0.0, PROMPT, SamplingParams(max_tokens=output, ignore_eos=True))])
        total = device.totals["attention"]
        spent.append((total.seconds, total.joules))
    engine.check_techniques()
    seconds, joules = (whole - first for whole, first in zip(*spent, strict=True))
    return Spent(seconds, joules + device.idle_watts * seconds)


@cache
def _ours(model: str, *, eighth: bool) -> Spent:
    device = Spatten(EIGHTH if eighth else None)
    return attention(device, model, "fp16", techniques=[MODELS[model]])


@cache
def _theirs(name: str, model: str) -> Spent:
    """Of a baseline as its memory and multipliers allow."""
    device = make_device(name)
    assert isinstance(device, ModelledDevice)
    if name in (_GPU, _CPU):
        return attention(device, model, "fp32")
    return attention(device, model, "fp16", engine={"cache_format": "int8"})


@cache
def _eager(name: str, model: str) -> Spent:
    """The same under a framework whose host the GPU waits for, or which runs on the CPU itself."""
    device = make_device(name)
    assert isinstance(device, ModelledDevice)
    plain = _theirs(name, model)
    host = OUTPUT * get_spec(model).num_layers * EAGER.seconds_per_layer / 2
    seconds = max(plain.seconds, host) if name == _GPU else plain.seconds + host
    return Spent(seconds, plain.joules + device.idle_watts * (seconds - plain.seconds))


def _chips(name: str, part: int) -> Outcome:
    found = [_theirs(name, model)[part] / _ours(model, eighth=True)[part] for model in MODELS]
    how = _HOW + "; all three with 128 multipliers and 64 GB/s, as the source compares them"
    return Outcome((min(found), max(found)), _WHY_CHIPS, how)


def _hosts(name: str, part: int) -> Outcome:
    ours = {model: _ours(model, eighth=False)[part] for model in MODELS}
    found = [_eager(name, model)[part] / ours[model] for model in MODELS]
    plain = [_theirs(name, model)[part] / ours[model] for model in MODELS]
    why = _WHY_HOSTS.format(low=min(plain), high=max(plain))
    return Outcome((min(found), max(found)), why, _HOW)


def speed_a3() -> Outcome:
    """Seconds of attention on A3 over those on an eighth of SpAtten."""
    return _chips("a3", 0)


def speed_mnnfast() -> Outcome:
    """Seconds of attention on MNNFast over those on an eighth of SpAtten."""
    return _chips("mnnfast", 0)


def energy_a3() -> Outcome:
    """Joules of attention on A3 over those on an eighth of SpAtten."""
    return _chips("a3", 1)


def energy_mnnfast() -> Outcome:
    """Joules of attention on MNNFast over those on an eighth of SpAtten."""
    return _chips("mnnfast", 1)


def speed_gpu() -> Outcome:
    """Seconds of attention on the TITAN Xp over SpAtten's."""
    return _hosts(_GPU, 0)


def speed_cpu() -> Outcome:
    """Seconds of attention on the Xeon over SpAtten's."""
    return _hosts(_CPU, 0)


def energy_gpu() -> Outcome:
    """Joules of attention on the TITAN Xp over SpAtten's."""
    return _hosts(_GPU, 1)


def energy_cpu() -> Outcome:
    """Joules of attention on the Xeon over SpAtten's."""
    return _hosts(_CPU, 1)


# --- the technique: what its attention reads, on any device ---


def dram() -> Outcome:
    """Bytes that attention reads and writes with the fp16 cache over those with SpAtten."""
    plain, pruned = _moved([]), _moved(["spatten"])
    return Outcome(
        (plain / pruned, plain / pruned),
        "keys: half the tokens over all layers, 4 of 16 bits; values: 30 % of those, 8 of 16 bits; the "
        "prompt is read whole, once; the source's average also covers BERT",
        f"counted: GPT-2 medium in fp16, {_LOAD.prompt} tokens in, {_LOAD.output} out: {plain / 1e9:.2f} GB "
        f"and {pruned / 1e9:.2f} GB",
    )


def _moved(techniques: list[str]) -> float:
    engine = predicted_engine("gpt2-medium", "a100-80g-sxm", techniques, _LOAD)
    predicted_seconds(engine, _LOAD)
    return engine.device.totals["attention"].bytes_moved


# --- the machine's page ---

_FEW = 4
HEADLINE = (
    "seconds of attention on a TITAN Xp at its memory's pace over its own "
    f"(GPT-2 medium, {_FEW} tokens after {PROMPT})"
)
SHOWN: dict[str, Any] = {
    "model": "gpt2-medium",
    "precision": "fp16",
    "techniques": ["spatten"],
    "workload": {"prompt": PROMPT, "output": OUTPUT},
    "engine": {"max_num_seqs": 1},
}


def headline(machine: Machine) -> float:
    """HEADLINE for a machine with any figures."""
    ours = attention(machine, "gpt2-medium", "fp16", tokens=_FEW, techniques=["spatten"])
    return _few_on_gpu() / ours.seconds


@cache
def _few_on_gpu() -> float:
    device = make_device(_GPU)
    assert isinstance(device, ModelledDevice)
    return attention(device, "gpt2-medium", "fp32", tokens=_FEW).seconds
