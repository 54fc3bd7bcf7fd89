"""NeuPIMs' headline comparison: decode steps of GPT-3 sizes with 64 to 512 requests, against the same NPU
without PIM, with PIM that takes turns, and against A100s with 40 GB.

The models are OPT's, whose shapes those of the source's simulator are; a batch is cut over pipeline stages
and the rest by tensor parallelism, as the source does. Contexts: the source draws them from requests under
way. Its published batches of ShareGPT are 300 tokens long on average and 2,048 at most; Alpaca's answers are
taken to be as far along. Exponentially distributed here, since the conversations are not at hand.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import mean
from typing import Any, NamedTuple

from twofold.claims.ledger import Outcome
from twofold.devices.machine import Machine
from twofold.devices.machines.neupims_npu import NeupimsNpu
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.parallel import Parallel
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.techniques.base import Claim


class Case(NamedTuple):
    """A model on `tp` · `pp` devices."""

    model: str
    tp: int
    pp: int


CASES = (Case("opt-6.7b", 4, 1), Case("opt-13b", 4, 1), Case("opt-30b", 4, 2), Case("opt-175b", 8, 4))
BATCHES = (64, 128, 256, 384, 512)
CONTEXTS = {"ShareGPT": 300, "Alpaca": 55}
"""Mean tokens of a request under way: of the published batches; 12 tokens in and as much of 56 out as
ShareGPT's 80 in and 296 out make of 300."""
LONGEST = 2048

_BASELINES = {
    "neupims-gpu": ("a100-40g-sxm", "A100 40 GB (measured with PyTorch)", 3.0),
    "neupims-npu": ("neupims-npu", "the NPU alone (simulated)", 2.4),
    "neupims-pim": ("neupims-naive", "NPU and PIM in turns (simulated)", 1.6),
}

CLAIMS = (
    *(
        Claim(
            key,
            "decode throughput ratio, mean",
            (claimed, claimed),
            "x",
            baseline,
            "GPT-3 7B to 175B, 64 to 512 requests, ShareGPT and Alpaca",
            "NeuPIMs (simulated)",
            "arXiv:2403.00579, abstract",
            "throughput",
        )
        for key, (_, baseline, claimed) in _BASELINES.items()
    ),
    Claim(
        "neupims-energy",
        "memory energy ratio",
        (0.75, 0.75),
        "x",
        "the NPU alone (simulated)",
        "GPT-3 sizes",
        "NeuPIMs (simulated)",
        "arXiv:2403.00579, power overhead: 1.8 times the power at 2.4 times the speed",
        "memory_energy",
    ),
)


class Step(NamedTuple):
    """Seconds of a decode step of one stage, joules of its memory, standby included."""

    seconds: float
    memory_joules: float


def contexts(dataset: str, requests: int) -> list[int]:
    """Tokens that `requests` requests hold."""
    rng = random.Random(requests)
    return [1 + min(LONGEST, round(rng.expovariate(1 / CONTEXTS[dataset]))) for _ in range(requests)]


@lru_cache(maxsize=len(CASES))
def _stage(case: Case) -> Transformer:
    """One pipeline stage of a device's share."""
    spec = get_spec(case.model)
    spec = replace(spec, num_layers=spec.num_layers // case.pp)
    return build_model(spec, ModelOptions(precision="fp16", parallel=Parallel(tp=case.tp)))


def step(device: ModelledDevice, case: Case, keys: Sequence[int]) -> Step:
    """A decode step of one stage with requests of `keys` tokens."""
    batch = len(keys)
    device.reset_totals()
    device.begin_step()
    device.forward(_stage(case), StepInput([Span(1, k) for k in keys], batch, batch))
    seconds = device.end_step().seconds
    parts = device.joules_by_part
    standby = 0.0
    if isinstance(device, NeupimsNpu):
        standby = device.figures.hbm.standby_watts * device.num_devices * seconds
    return Step(seconds, parts.get("dram", 0.0) + parts.get("in-bank", 0.0) + standby)


@lru_cache(maxsize=16)
def _steps(name: str, dataset: str) -> tuple[Step, ...]:
    """Steps of one stage on the device called `name`, for every case and batch."""
    found = []
    for case in CASES:
        device = make_device(name, tp=case.tp)
        assert isinstance(device, ModelledDevice)
        found += [step(device, case, contexts(dataset, batch // case.pp)) for batch in BATCHES]
    return tuple(found)


def _ratios(name: str, dataset: str) -> list[float]:
    """Throughput of NeuPIMs over that of the device called `name`: all stages work at a time on both."""
    pairs = zip(_steps(name, dataset), _steps("neupims", dataset), strict=True)
    return [theirs.seconds / ours.seconds for theirs, ours in pairs]


def throughput(claim: Claim) -> Outcome:
    """The mean over models, batches and datasets."""
    name = _BASELINES[claim.key][0]
    by_dataset = {dataset: _ratios(name, dataset) for dataset in CONTEXTS}
    every = [ratio for ratios in by_dataset.values() for ratio in ratios]
    spread = "; ".join(
        f"{dataset} {min(r):.2f} to {max(r):.2f}, mean {mean(r):.2f}" for dataset, r in by_dataset.items()
    )
    return Outcome(
        (mean(every), mean(every)),
        {
            "neupims-gpu": "the GPU is a roofline with measured efficiencies, whose pins are half as fast "
            "again as the NPU's, and not PyTorch's layer by layer; messages take the same links on both",
            "neupims-npu": "attention moves from the pins to the banks; weights, which both read over the "
            "pins, take most of a step of short contexts or small batches, and twice with sub-batches",
            "neupims-pim": "sub-batches pay where arithmetic bounds products, from 512 requests on; at 256 "
            "reading weights twice costs more than attention hides. The source's arrays are 65 % busy with "
            "128 tokens (GPT-3 30B), more than pins of 1 TB/s can feed (50 %). Its dual row buffers alone "
            "bring 70 %, here what the softmax takes",
        }[claim.key],
        f"predicted: decode steps of {len(CASES)} models, {len(BATCHES)} batches, 2 datasets; {spread}",
    )


def memory_energy() -> Outcome:
    """Joules of the memory per step over those of the NPU alone, on average."""
    ratios = [
        ours.memory_joules / theirs.memory_joules
        for dataset in CONTEXTS
        for theirs, ours in zip(_steps("neupims-npu", dataset), _steps("neupims", dataset), strict=True)
    ]
    return Outcome(
        (mean(ratios), mean(ratios)),
        "keys and values do not pass the pins; weights that are read twice take some of that back. The "
        "source counts no energy of the pins",
        f"predicted: energy of the memory in the same steps, from {min(ratios):.2f} to {max(ratios):.2f}",
    )


HEADLINE = "tokens/s of OPT-6.7B on four devices, 512 requests with contexts of ShareGPT"


def headline(machine: Machine) -> float:
    """That, on machines with the figures of `machine`."""
    case, batch = CASES[0], 512
    return batch / step(machine.make(machine.figures, tp=case.tp), case, contexts("ShareGPT", batch)).seconds


SHOWN: dict[str, Any] = {
    "model": "opt-6.7b",
    "precision": "fp16",
    "workload": {"requests": 32, "prompt": 80, "output": 296, "concurrency": 32},
    "engine": {"max_num_seqs": 32},
}
"""What the machine's page shows in a picture: a plan."""
