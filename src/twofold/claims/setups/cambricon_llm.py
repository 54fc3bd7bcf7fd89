"""Claims of arXiv:2409.15654: tokens per second at batch 1 against FlexGen on a server, MLC-LLM on a phone.

The paper does not say how long contexts were; 1,000 tokens are assumed here, and a cache in 8 bits beside
8-bit activations (its 700 MB for 70B are that at 4,096 tokens). FlexGen's servers keep the weights on an NVMe
disk or in host memory, and cache and activations on the GPU: its bandwidths here are those of the catalogue's
A100, and its software takes no time of its own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from twofold.claims.ledger import Outcome
from twofold.devices.machine import Machine
from twofold.devices.machines.cambricon_llm import CambriconLlm
from twofold.devices.machines.cambricon_llm_m import CambriconLlmM
from twofold.devices.machines.cambricon_llm_s import CambriconLlmS
from twofold.devices.modelled import ModelledDevice
from twofold.devices.parts.nand_events import FlashChannel
from twofold.devices.registry import make_device
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.base import Claim

CONTEXT = 1000
OPT = ("opt-6.7b", "opt-13b", "opt-30b", "opt-66b")
LLAMA = ("llama-2-7b", "llama-2-13b", "llama-2-70b")
W8A8, W4A16 = "smoothquant", "gptq:bits=4"
_SERVER, _PHONE = "a100-80g-sxm", "snapdragon-8-gen-2"
_SLICE = 512
"""Bytes of a slice of a page; the paper names no size."""

_PAPER = "arXiv:2409.15654"
_L, _M, _S = "Cambricon-LLM-L (simulated)", "Cambricon-LLM-M (simulated)", "Cambricon-LLM-S (simulated)"
_SSD = "FlexGen, weights on an NVMe SSD, A100 80 GB, INT8"
_DRAM = "FlexGen, weights in host memory, A100 80 GB, INT8"
_MLC = "MLC-LLM, 4-bit weights, Snapdragon 8 Gen 2"


def _speed(key: str, rate: float, model: str, hardware: str, where: str) -> Claim:
    setup, source = f"cambricon_llm:{key.replace('-', '_')}", f"{_PAPER}, {where}"
    return Claim(key, "decoding speed", (rate, rate), "token/s", "none", model, hardware, source, setup)


def _ratio(
    key: str, figure: str, claimed: tuple[float, float], baseline: str, model: str, hardware: str, where: str
) -> Claim:
    setup, source = f"cambricon_llm:{key.replace('-', '_')}", f"{_PAPER}, section {where}"
    return Claim(key, figure, claimed, "x", baseline, model, hardware, source, setup)


_FAST, _BOTH, _ALL = "decoding speed", "OPT-66B and OPT-6.7B", "OPT and Llama2"
_GAIN = "decoding speed with 4-bit weights over 8-bit weights and activations, mean of the models"
_SLICED = "speed of a product with sliced reads"
CLAIMS = (
    _speed("speed-70b", 3.44, "Llama2-70B, INT8", _L, "abstract"),
    _speed("speed-7b", 36.34, "OPT-6.7B, INT8", _L, "abstract and section VIII-A"),
    _speed("speed-7b-m", 10.96, "OPT-6.7B, INT8", _M, "section VIII-A"),
    _speed("speed-7b-s", 3.56, "OPT-6.7B, INT8", _S, "section VIII-A"),
    _ratio("over-ssd", _FAST, (22.1, 44.8), _SSD, _BOTH, _L, "VIII-A"),
    _ratio("over-dram", _FAST, (6.8, 10.3), _DRAM, _BOTH, _L, "VIII-A"),
    _ratio("over-phone", _FAST, (34.0 / 7.58, 34.0 / 7.58), _MLC, "Llama2-7B", _L, "VIII-A, figure 9"),
    _ratio("four-bits-s", _GAIN, (1.853, 1.853), "W8A8", _ALL, _S, "VIII-B"),
    _ratio("four-bits-l", _GAIN, (1.479, 1.479), "W8A8", _ALL, _L, "VIII-B"),
    _ratio("tiling", _FAST, (1.3, 1.4), "all products in the flash, without the NPU", _ALL, _S, "VIII-C"),
    _ratio("slicing", _SLICED, (1.6, 1.8), "reads of whole pages", _ALL, _S, "VIII-C"),
    Claim(
        "accuracy",
        "share of the accuracy that is left at a bit error rate of 2e-4, with on-die error correction",
        (0.92, 0.95),
        "share",
        "flash without errors",
        "OPT-6.7B, INT8",
        "simulated flash errors",
        f"{_PAPER}, section VIII-D",
        why_not="needs the 6.7B model's weights and three question sets, which are not available offline; "
        "technique on-die-ecc has the errors and their correction for models that are there",
    ),
)


def _rate(device: ModelledDevice, model: str, techniques: tuple[str, ...]) -> float:
    """Tokens per second of one sequence at CONTEXT tokens."""
    plan = Plan.from_dict(
        {
            "model": model,
            "techniques": list(techniques),
            "workload": {"requests": 1, "prompt": CONTEXT, "output": 2},
            "engine": {"max_num_seqs": 1, "cache_format": "int8" if W8A8 in techniques else "auto"},
        }
    )
    return 1 / StepPredictor(plan, device, spec=get_spec(model)).step([Span(1, CONTEXT)]).seconds


@cache
def _usual(machine: type[CambriconLlm], model: str, technique: str = W8A8) -> float:
    return _rate(machine(), model, (technique,))


def _speed_of(machine: type[CambriconLlm], model: str, why: str) -> Outcome:
    rate = _usual(machine, model)
    how = f"predicted: {model}, smoothquant, cache in 8 bits, one sequence of {CONTEXT} tokens"
    return Outcome((rate, rate), why, how)


_LARGE = (
    "from its table of channels and chips, with nothing fitted; the paper's own simulator falls further "
    "behind the flash's bandwidth the larger model and machine are, and does not say why"
)
_SMALL = (
    "a matrix of the small model is a few rounds of 512 cores, so that a part of a round is lost and the "
    "last page's arithmetic is waited for; the paper's formulas leave both out, and its 36 token/s are what "
    "the full bandwidth of cores and channels would give"
)


def speed_70b() -> Outcome:
    """The abstract's first figure."""
    return _speed_of(CambriconLlm, "llama-2-70b", _LARGE)


def speed_7b() -> Outcome:
    """The abstract's second figure, which is that of OPT-6.7B."""
    return _speed_of(CambriconLlm, "opt-6.7b", _SMALL)


def speed_7b_m() -> Outcome:
    """With 16 channels of 4 chips."""
    return _speed_of(CambriconLlmM, "opt-6.7b", _LARGE)


def speed_7b_s() -> Outcome:
    """With 8 channels of 2 chips."""
    return _speed_of(CambriconLlmS, "opt-6.7b", _LARGE)


def _over_server(host: float, why: str) -> Outcome:
    offload = f"flexgen-offload:weights_host={host}"
    ends = [
        (_usual(CambriconLlm, model), _rate(_modelled(_SERVER), model, (W8A8, offload)))
        for model in (OPT[-1], OPT[0])
    ]
    low, high = sorted(ours / theirs for ours, theirs in ends)
    theirs = " and ".join(f"{rate:.2f}" for _, rate in ends)
    how = f"predicted: {OPT[-1]} and {OPT[0]} in 8 bits; the baseline yields {theirs} token/s"
    return Outcome((low, high), why, how)


def over_ssd() -> Outcome:
    """Over FlexGen with all weights on the disk."""
    return _over_server(
        0.0,
        "the disk is the catalogue's, at its datasheet's rate, since the paper does not name its own; the "
        "paper's FlexGen reads about 5 GB/s",
    )


def over_dram() -> Outcome:
    """Over FlexGen with all weights in host memory."""
    return _over_server(
        1.0,
        "host memory is as fast as PCIe allows here; the paper's FlexGen moves about 24 GB/s over it",
    )


def over_phone() -> Outcome:
    """Over a phone that holds the weights in DRAM."""
    phone = _rate(_modelled(_PHONE), "llama-2-7b", (W4A16,))
    ratio = _usual(CambriconLlm, "llama-2-7b") / phone
    return Outcome(
        (ratio, ratio),
        "the phone is a roofline with the efficiencies of its class, none of which was measured on it; the "
        "source's 7.58 token/s are 40 % of what its memory could read",
        f"predicted: llama-2-7b, ours in 8 bits, the phone's in 4: {phone:.1f} token/s there",
    )


def _four_bits(machine: type[CambriconLlm]) -> Outcome:
    models = [model for model in (*OPT, *LLAMA) if model != "opt-66b"]
    gains = [_usual(machine, model, W4A16) / _usual(machine, model) for model in models]
    mean = sum(gains) / len(gains)
    return Outcome(
        (mean, mean),
        "16-bit activations go with a 16-bit cache, which takes its share of the small models' time; "
        "opt-66b is left out, whose cache in 16 bits is larger than the 2 GB of DRAM",
        f"predicted: {', '.join(models)} at {CONTEXT} tokens; {min(gains):.2f} to {max(gains):.2f}",
    )


def four_bits_s() -> Outcome:
    """On the smallest machine."""
    return _four_bits(CambriconLlmS)


def four_bits_l() -> Outcome:
    """On the largest machine."""
    return _four_bits(CambriconLlm)


def tiling() -> Outcome:
    """What the NPU's part is worth."""
    alone = CambriconLlmS(replace(CambriconLlmS.usual, shared=False))
    gains = [_usual(CambriconLlmS, model) / _rate(alone, model, (W8A8,)) for model in (*OPT, *LLAMA)]
    return Outcome(
        (min(gains), max(gains)),
        "pages go out while the cores work, at the ratio that lets both end together",
        f"predicted: {', '.join((*OPT, *LLAMA))} on the smallest machine, with and without",
    )


def slicing() -> Outcome:
    """What it is worth that pages make room for vectors and results."""
    flash = CambriconLlmS().flash
    gains = []
    for model in (*OPT, *LLAMA):
        spec = get_spec(model)
        split = flash.split(spec.ffn_hidden, spec.hidden, 8, 1, 1)
        outside = -(-split.outside // flash.nand.shape.channels)
        whole, sliced = (
            FlashChannel(flash).multiply(split.rounds, outside, 8, 1, 1, size)
            for size in (flash.nand.shape.page_bytes, _SLICE)
        )
        gains.append(whole / sliced)
    return Outcome(
        (min(gains), max(gains)),
        "a page on the bus holds up the next round by half of its 16 us at most times, against 30 us of "
        "sensing; for the paper's factor every round would have to wait for more than a whole page",
        f"played transfer by transfer: the first matrix of the MLP in slices of {_SLICE} bytes and in pages",
    )


def _modelled(name: str) -> ModelledDevice:
    device = make_device(name)
    assert isinstance(device, ModelledDevice)
    return device


HEADLINE = f"token/s of Llama-2-70B in 8 bits at batch 1 and {CONTEXT:,} tokens"
SHOWN = {
    "model": "llama-2-70b",
    "techniques": [W8A8],
    "workload": {"requests": 1, "prompt": CONTEXT, "output": 32},
    "engine": {"max_num_seqs": 1, "cache_format": "int8"},
}


def headline(machine: Machine) -> float:
    """See HEADLINE."""
    return _rate(machine, "llama-2-70b", (W8A8,))
