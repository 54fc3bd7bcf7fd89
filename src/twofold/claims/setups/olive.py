"""Claims of arXiv:2304.07493 against GOBO: weights and activations in 4-bit pairs, multiplied as integers,
against 3-bit weights that are widened and multiplied in 16 bits.

On arrays of equal area with the same buffers and DRAM, the products of the blocks for a prompt. The source
compares the two on a simulated Turing GPU, whose tensor cores have the same two kinds of units; the roofline
model of a T4, of that generation, says what the whole prompt gains there, GOBO's outliers left out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.claims.setups.block_products import Spent, spent
from twofold.devices.machine import Machine
from twofold.devices.machines.gobo import Gobo
from twofold.devices.machines.olive import Olive as OliveMachine
from twofold.models.catalog import get_spec
from twofold.techniques.weights.int_vs_fp import IntVsFp
from twofold.techniques.weights.olive import Olive

_MODELS = ("gpt2-xl", "opt-6.7b")
_LOAD = BatchLoad(1, 1000, 1)
_THREE_BITS = "int3-g128"
_GOBO, _OLIVE = f"int-vs-fp:format={_THREE_BITS}", "olive"

CLAIMS = tuple(claim for claim in Olive.claims if claim.setup is not None)

HEADLINE = "speed-up over a GOBO-like array of equal area, products of OPT-6.7B for 1,000 tokens, ×"
SHOWN = {
    "model": "opt-6.7b",
    "techniques": ["olive"],
    "workload": {"requests": 1, "prompt": 1000, "output": 32},
}


def headline(machine: Machine) -> float:
    """See HEADLINE."""
    assert isinstance(machine, OliveMachine)
    gobo = _on_gobo(_as_large(machine), "opt-6.7b", _LOAD.prompt)
    return gobo.seconds / _on_olive(machine, "opt-6.7b", _LOAD.prompt).seconds


def speedup_over_gobo() -> Outcome:
    """Seconds with 16-bit products over seconds with 4-bit ones."""
    return _outcome(
        0,
        "an element of 4-bit pairs has a fifth of the area of one of 16-bit floats: five times as many work. "
        "One token leaves most rows of both arrays empty and gains what the columns do. Areas are counted "
        "from gates, the source's tables could not be read",
    )


def energy_over_gobo() -> Outcome:
    """Joules with 16-bit products over joules with 4-bit ones."""
    return _outcome(
        1,
        "elements and buffers spend less on 4 bits than on 16; the DRAM's power goes by the time. Energies "
        "are counted from gates and published accesses",
    )


def _on_olive(machine: OliveMachine, model: str, tokens: int) -> Spent:
    return spent(machine, get_spec(model), Olive(), tokens)


def _on_gobo(machine: Gobo, model: str, tokens: int) -> Spent:
    return spent(machine, get_spec(model), IntVsFp(_THREE_BITS), tokens)


def _as_large(machine: OliveMachine) -> Gobo:
    """A GOBO-like array of the same area in the same surroundings, in as many rows as usual."""
    usual, f = Gobo().figures, machine.figures
    same = Gobo(replace(usual, node=f.node, hertz=f.hertz, buffers=f.buffers, dram=f.dram))
    columns = max(2, int(machine.array_mm2 / same.element.area / usual.rows))
    return Gobo(replace(same.figures, columns=columns, lanes=columns))


def _outcome(which: int, why: str) -> Outcome:
    olive = OliveMachine()
    gobo = _as_large(olive)

    def ratio(model: str, tokens: int) -> float:
        return _on_gobo(gobo, model, tokens)[which] / _on_olive(olive, model, tokens)[which]

    prompt = [ratio(model, _LOAD.prompt) for model in _MODELS]
    token = [ratio(model, 1) for model in _MODELS]
    card = [_whole(model, "t4", _GOBO)[which] / _whole(model, "t4", _OLIVE)[which] for model in _MODELS]
    arrays = [
        _whole(model, "gobo", _GOBO)[which] / _whole(model, "olive", _OLIVE)[which] for model in _MODELS
    ]
    return Outcome(
        (min(prompt), max(prompt)),
        why,
        f"predicted: {' and '.join(_MODELS)}, {_LOAD.prompt} tokens; one token {_span(token)}; the whole "
        f"prompt, its attention and logits in 16 bits and on OliVe's few lanes, {_span(arrays)}; the whole "
        f"prompt on the roofline model of a T4 {_span(card)}",
    )


@cache
def _whole(model: str, device: str, technique: str) -> Spent:
    """Of a prompt."""
    engine = predicted_engine(model, device, [technique], _LOAD, max_num_batched_tokens=_LOAD.prompt)
    seconds = predicted_seconds(engine, _LOAD)
    assert engine.totals.joules is not None
    return Spent(seconds, engine.totals.joules)


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"
