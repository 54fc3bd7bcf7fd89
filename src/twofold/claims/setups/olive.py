"""Claims of arXiv:2304.07493 against GOBO on a Turing GPU: weights and activations in 4-bit pairs, multiplied
as integers, against packed weights that are widened and multiplied in 16 bits.

The simulated card is modelled by the T4, of the same generation; GOBO's weights by 3-bit integers in groups
of 128, without their outliers. The outcome is the interval between two of the models.
"""

from __future__ import annotations

from functools import cache

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds

_DEVICE = "t4"
_MODELS = ("gpt2-xl", "opt-6.7b")
_LOAD = BatchLoad(1, 1000, 1)
_GOBO, _OLIVE = "int-vs-fp:format=int3-g128", "olive"
_SETTING = f"the roofline model of a T4, a prompt of {_LOAD.prompt} tokens"


@cache
def _spent(model: str, technique: str) -> tuple[float, float]:
    """Seconds and joules of a prompt."""
    engine = predicted_engine(model, _DEVICE, [technique], _LOAD, max_num_batched_tokens=_LOAD.prompt)
    seconds = predicted_seconds(engine, _LOAD)
    assert engine.totals.joules is not None
    return seconds, engine.totals.joules


def _ratios(which: int) -> tuple[float, float]:
    found = [_spent(model, _GOBO)[which] / _spent(model, _OLIVE)[which] for model in _MODELS]
    return min(found), max(found)


def speedup_over_gobo() -> Outcome:
    """Seconds with 16-bit products over seconds with 4-bit ones."""
    return Outcome(
        _ratios(0),
        "int4 units are four times as fast as those of 16 bits; attention, norms and the output projection "
        "gain nothing, and GOBO's outliers, which cost its kernels time, are left out",
        "predicted: "
        + ", ".join(
            f"{model} on {_SETTING}: {_spent(model, _GOBO)[0] * 1e3:.0f} ms and "
            f"{_spent(model, _OLIVE)[0] * 1e3:.0f} ms"
            for model in _MODELS
        ),
    )


def energy_over_gobo() -> Outcome:
    """Joules with 16-bit products over joules with 4-bit ones."""
    return Outcome(
        _ratios(1),
        "energy goes by the time of a card that draws its limit in both; the source's own is that of "
        "simulated units",
        "predicted: "
        + ", ".join(
            f"{model} on {_SETTING}: {_spent(model, _GOBO)[1]:.0f} J and {_spent(model, _OLIVE)[1]:.0f} J"
            for model in _MODELS
        ),
    )
