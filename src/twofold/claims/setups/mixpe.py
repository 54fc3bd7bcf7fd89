"""MixPE's headline: 4-bit weights times 8-bit activations on its array against the arrays of quantisation
accelerators.

As its simulator does, only the products of the blocks are compared, of a decode step of 64 sequences, with
the buffers and DRAM that it configures. The abstract does not say which accelerators its figures stand for;
here it is an array of 8-bit integers of equal area, with 8-bit weights.
"""

from __future__ import annotations

from dataclasses import replace

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.claims.setups.block_products import Spent, spent
from twofold.devices.machine import Machine
from twofold.devices.machines.fp16_array import Fp16Array
from twofold.devices.machines.int8_array import Int8Array
from twofold.devices.machines.mixpe import MixPe
from twofold.devices.machines.mixpe_a16 import MixPeA16
from twofold.models.catalog import get_spec
from twofold.techniques.base import Claim
from twofold.techniques.weights.bipolar_int import BipolarInt
from twofold.techniques.weights.gptq import Gptq
from twofold.techniques.weights.smoothquant import SmoothQuant

_PAPER = "arXiv:2411.16158"
_MODELS = ("opt-6.7b", "llama-2-13b")
_BATCH = 64
_LOAD = BatchLoad(_BATCH, 1, 8)


def _claim(key: str, figure: str, claimed: float, setup: str) -> Claim:
    return Claim(
        key,
        figure,
        (claimed, claimed),
        "×",
        "state-of-the-art quantisation accelerators",
        "ViT-Base, ViT-Huge, OPT-6.7B, Llama-2-13B",
        "systolic arrays at 500 MHz (simulated)",
        f"{_PAPER}, abstract",
        setup,
    )


CLAIMS = (
    _claim("mixpe-speedup", "speed-up of quantised products", 2.6, "mixpe:speedup"),
    _claim("mixpe-energy", "energy of quantised products, theirs over MixPE's", 1.4, "mixpe:energy"),
)

HEADLINE = "speed-up over an array of 8-bit integers of equal area, products of OPT-6.7B for 64 sequences, ×"
SHOWN = {
    "model": "opt-6.7b",
    "techniques": ["bipolar-int"],
    "workload": {"requests": _BATCH, "prompt": 64, "output": 16, "concurrency": _BATCH},
}


def headline(machine: Machine) -> float:
    """See HEADLINE."""
    assert isinstance(machine, MixPe)
    return _on_integers(_as_large(machine), "opt-6.7b").seconds / _on_mixpe(machine, "opt-6.7b").seconds


def speedup() -> Outcome:
    """Seconds of the array of 8-bit integers over MixPE's."""
    return _outcome(0, f"; whole steps at the simulator's sizes, {_whole()}")


def energy() -> Outcome:
    """Joules of the array of 8-bit integers over MixPE's."""
    return _outcome(
        1, "; an element's power in the source's simulator is the same for both arrays, here it is counted"
    )


def _on_mixpe(machine: MixPe, model: str) -> Spent:
    return spent(machine, get_spec(model), BipolarInt(), _BATCH)


def _on_integers(machine: Int8Array, model: str) -> Spent:
    return spent(machine, get_spec(model), SmoothQuant(), _BATCH)


def _as_large(machine: MixPe) -> Int8Array:
    """An array of 8-bit integers of the same area in the same surroundings, in as many rows as usual."""
    rows = Int8Array().figures.rows
    usual = Int8Array(replace(machine.figures, rows=rows))
    columns = max(2, round(machine.array_mm2 / usual.element.area / rows))
    return Int8Array(replace(usual.figures, columns=columns, lanes=columns))


def _outcome(which: int, more: str) -> Outcome:
    mixpe, usual = MixPe(), Int8Array()
    equal = _as_large(mixpe)
    ratios, sizes, floats, wide = [], [], [], []
    for model in _MODELS:
        spec, mine = get_spec(model), _on_mixpe(mixpe, model)[which]
        ratios.append(_on_integers(equal, model)[which] / mine)
        sizes.append(_on_integers(usual, model)[which] / mine)
        reference = spent(Fp16Array(), spec, None, _BATCH)[which]
        floats.append(reference / mine)
        wide.append(reference / spent(MixPeA16(), spec, Gptq(), _BATCH)[which])
    share = mixpe.element.area / usual.element.area
    return Outcome(
        (min(ratios), max(ratios)),
        "the abstract does not name the baseline: here an array of 8-bit integers of equal area. By their "
        f"gates one of MixPE's elements has {share:.2f} of the area of one of these, not the quarter that "
        "its simulator's sizes imply. Its first version has 2.6 over OLAccel, 4 over ANT, 7 over INT8",
        f"predicted: products of the blocks of {' and '.join(_MODELS)}, {_BATCH} sequences; at the "
        f"simulator's sizes {_span(sizes)}, over its array of 16-bit floats {_span(floats)}, and with 16-bit "
        f"activations (mixpe-a16) over this one {_span(wide)}{more}",
    )


def _whole() -> str:
    """The step as a whole, attention and logits included."""
    found = []
    for device, technique in (("int8-array", "smoothquant"), ("mixpe", "bipolar-int")):
        engine = predicted_engine(_MODELS[0], device, [technique], _LOAD)
        found.append(predicted_seconds(engine, _LOAD))
    return f"attention and logits in fp16 included: {found[0] / found[1]:.1f} ({_MODELS[0]})"


def _span(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"
