"""SN40L's comparisons: fused against unfused, and a composition of 150 experts against DGX A100 and DGX H100.

Eight sockets or GPUs share every model by tensor parallelism, as in the source.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

from twofold.claims.ledger import Outcome
from twofold.claims.setups import sn40l_experts as experts
from twofold.claims.setups.inference import inference
from twofold.devices.machine import Machine
from twofold.devices.machines.sn40l import Sn40l, Sn40lFigures
from twofold.devices.machines.sn40l_unfused import ATTENTION_KERNELS, Sn40lUnfused, UnfusedFigures
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.parallel import Parallel
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.techniques.base import Claim

TP = 8
BENCHMARKS = (("llama-2-7b", 4096), ("llama-2-70b", 4096), ("mistral-7b", 2048), ("mistral-7b", 4096))
"""Models and sequence lengths of table III that are in the catalogue: no BLOOM, Falcon, LLaVA or training."""
DECODED = 16
"""Tokens that the time of one is taken from."""

_SN = "eight SambaNova SN40L (measured)"
_PAPER = "arXiv:2405.07518v2, MICRO 2024, "
_UNFUSED, _A100, _H100 = "the same chip, every op by itself", "DGX A100 (estimated)", "DGX H100 (estimated)"
_COE = "Samba-CoE: 150 experts and a router of Llama2-7B"
_TABLE_III = "Llama2 7B and 70B, Mistral 7B at 2K and 4K"
_VS_DGX = {_A100: experts.DGX_A100, _H100: experts.DGX_H100}


def _claim(
    key: str,
    figure: str,
    claimed: tuple[float, float],
    baseline: str,
    model: str,
    where: str,
    setup: str = "",
    why_not: str = "",
) -> Claim:
    name, source = f"sn40l-{key}", _PAPER + where
    return Claim(name, figure, claimed, "x", baseline, model, _SN, source, setup or None, why_not)


CLAIMS = (
    _claim("fused", "speedup of fusion", (2, 13), _UNFUSED, _TABLE_III, "abstract", "fused"),
    _claim(
        "fused-prefill", "prefill speedup", (1.5, 3), _UNFUSED, _TABLE_III, "section VI-A", "fused_prefill"
    ),
    _claim(
        "orchestrated",
        "decoding speedup of launches by the chip",
        (1.4, 8),
        "fused, launched by the host",
        _TABLE_III,
        "section VI-A",
        "orchestrated",
    ),
    _claim(
        "calls", "fewer kernel launches", (11, 11), _UNFUSED, "Llama2-7B, prompt of 4K", "figure 11", "calls"
    ),
    _claim(
        "fft",
        "speedup of fusion",
        (13, 13),
        _UNFUSED,
        "FlashFFTConv, 1M elements",
        "section VI-A",
        why_not="a convolution by Fourier transforms has no op here: it is no part of a decoder",
    ),
    _claim("switch-a100", "model switching speedup", (31, 31), _A100, _COE, "table V", "switching"),
    _claim("switch-h100", "model switching speedup", (15, 16), _H100, _COE, "table V and text", "switching"),
    _claim("coe-a100", "answers of 20 tokens, 8 at a time", (6.6, 6.6), _A100, _COE, "table V", "answers"),
    _claim("coe-h100", "answers of 20 tokens, 8 at a time", (3.7, 3.7), _H100, _COE, "table V", "answers"),
    _claim(
        "coe-200-a100", "answers of 200 tokens, 8 at a time", (4.2, 4.2), _A100, _COE, "table V", "answers"
    ),
    _claim(
        "coe-200-h100", "answers of 200 tokens, 8 at a time", (2.7, 2.7), _H100, _COE, "table V", "answers"
    ),
    _claim("expert-a100", "one expert, 200 tokens", (3.2, 3.2), _A100, _COE, "table V", "expert"),
    _claim("expert-h100", "one expert, 200 tokens", (2.3, 2.3), _H100, _COE, "table V", "expert"),
    _claim("expert-20-a100", "one expert, 20 tokens", (2.0, 2.0), _A100, _COE, "table V", "expert"),
    _claim("expert-20-h100", "one expert, 20 tokens", (1.5, 1.5), _H100, _COE, "table V", "expert"),
    _claim(
        "footprint",
        "fewer nodes at equal latency",
        (19, 19),
        "DGX A100 or H100",
        _COE,
        "figure 13",
        "footprint",
    ),
)

HEADLINE = "decoding Llama2-7B at 4K, eight sockets: times faster than unfused"
SHOWN = {
    "model": "llama-2-7b",
    "parallel": {"tp": TP},
    "workload": {"requests": 1, "prompt": experts.PROMPT, "output": 200},
}


# --- fusion ---


@cache
def _model(name: str) -> Transformer:
    """A rank's share of a model."""
    return build_model(get_spec(name), ModelOptions(precision="bf16", parallel=Parallel(tp=TP)))


def _step(machine: Machine, model: str, span: Span) -> float:
    """Seconds of one step of one sequence."""
    machine.begin_step()
    machine.forward(_model(model), StepInput([span], num_tokens=span.queries, num_logits=1))
    return machine.end_step().seconds


def headline(machine: Machine) -> float:
    """See HEADLINE."""
    figures = machine.figures
    own = {field.name: getattr(figures, field.name) for field in fields(figures)}
    unfused = UnfusedFigures(**own | {"command_seconds": UnfusedFigures().command_seconds})
    devices = Sn40lUnfused(unfused, tp=TP), Sn40l(figures, tp=TP)
    times = [_step(device, "llama-2-7b", Span(1, 4096)) for device in devices]
    return times[0] / times[1]


@cache
def _times(
    machine: type[Sn40l], figures: Sn40lFigures | None, model: str, length: int
) -> tuple[float, float]:
    """Seconds of a prompt of `length`, and of a token after it."""
    short, long = (
        inference(machine(figures, tp=TP), model, length, n, precision="bf16") for n in (1, 1 + DECODED)
    )
    return short.first, (long.seconds - short.seconds) / DECODED


def _ratios(phase: int) -> list[float]:
    return [
        _times(Sn40lUnfused, None, *which)[phase] / _times(Sn40l, None, *which)[phase] for which in BENCHMARKS
    ]


_LAUNCHES = (
    "what the host takes for a launch is not published and assumed to be three small transfers over PCIe; a "
    "slower host raises the ratios of decoding in proportion"
)


def fused() -> Outcome:
    """Prompts and tokens of all benchmarks."""
    ratios = _ratios(0) + _ratios(1)
    why = "the source's upper end is Mistral's decoding, ours far below it: " + _LAUNCHES
    return Outcome((min(ratios), max(ratios)), why, "predicted, prompts and tokens of four benchmarks")


def fused_prefill() -> Outcome:
    """Prompts of all benchmarks."""
    ratios = _ratios(0)
    why = "fused, intermediates and above all scores no longer cross HBM, and sums over sockets are hidden"
    return Outcome((min(ratios), max(ratios)), why, "predicted, prompts of four benchmarks")


def orchestrated() -> Outcome:
    """Fused kernels whose launches take as long as the host's."""
    slow = replace(Sn40lFigures(), command_seconds=UnfusedFigures().command_seconds)
    ratios = [_times(Sn40l, slow, *which)[1] / _times(Sn40l, None, *which)[1] for which in BENCHMARKS]
    why = _LAUNCHES + "; and one launch a layer here, where the source's fused layers have more (figure 11)"
    return Outcome((min(ratios), max(ratios)), why, "predicted, tokens of four benchmarks")


def calls() -> Outcome:
    """Kernels of a layer by themselves for one that is fused."""
    machine = Sn40l(tp=TP)
    _step(machine, "llama-2-7b", Span(4096, 4096))
    ops = {kind: spent.calls for kind, spent in machine.totals.items()}
    layers = ops["attention"]
    ratio = (sum(ops.values()) + (ATTENTION_KERNELS - 1) * layers) / layers
    why = (
        "each op of the engine is a kernel, messages too, and attention is four; a fused layer is one, so "
        "that the source's fused prompts have about two kernels a layer if its operators are these"
    )
    return Outcome((ratio, ratio), why, "counted, a prompt of 4,096")


# --- composition of experts ---


def switching(claim: Claim) -> Outcome:
    """Bringing one expert to where it can run."""
    node = _VS_DGX[claim.baseline]
    ours = experts.switch_seconds(experts.SN40L)
    theirs, wide = experts.switch_seconds(node), experts.switch_seconds(node, experts.TP)
    why = (
        "DDR's share of its peak is the source's measurement, and it counts one PCIe link for a DGX; with "
        f"every GPU bringing its eighth over its own it is {wide / ours:.1f} times"
    )
    return Outcome((theirs / ours,) * 2, why, "predicted, Copy ops on both")


def answers(claim: Claim) -> Outcome:
    """Batches of eight prompts for as many experts as the host of a DGX holds."""
    node, output = _VS_DGX[claim.baseline], 200 if "200" in claim.figure else 20
    count = experts.held(node)
    ours = experts.answer_seconds(experts.SN40L, count, 8, output)
    theirs = experts.answer_seconds(node, count, 8, output)
    wide = experts.answer_seconds(node, count, 8, output, experts.TP)
    why = (
        f"{count} experts, the most that 2 TB hold, drawn by chance; the GPUs' experts are predicted, where "
        f"the source takes published latencies; with all PCIe links of a DGX at work {wide / ours:.1f} times"
    )
    return Outcome((theirs / ours,) * 2, why, "predicted, router, copies and experts of both")


def expert(claim: Claim) -> Outcome:
    """One expert that is in HBM already."""
    node, output = _VS_DGX[claim.baseline], 200 if "200" in claim.figure else 20
    ours, theirs = (experts.expert_seconds(each, output) for each in (experts.SN40L, node))
    why = (
        f"{theirs / output * 1e3:.2f} ms a token on the GPUs with TensorRT-LLM's host time against "
        f"{ours / output * 1e3:.2f} ms; the source takes NVIDIA's published latencies"
    )
    return Outcome((theirs / ours,) * 2, why, "predicted, prompts of 200 tokens (assumed)")


def footprint() -> Outcome:
    """DGX nodes whose HBM holds the experts that one node of SN40L holds in DDR."""
    count = experts.held(experts.SN40L)
    nodes = -(-count // (experts.resident(experts.DGX_A100) + 1))
    why = f"{count} experts fit into 12 TiB where the source counts 850, which leaves room for other things"
    return Outcome((nodes, nodes), why, "counted, bytes of weights and of memories")
