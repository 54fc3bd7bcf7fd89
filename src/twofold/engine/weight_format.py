"""How quantised matrices are held: what the plan says, or what suits the device where it says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.devices.base import Device
from twofold.engine.active import Active, the_one
from twofold.models.quantised import CHECKPOINTS, QuantisedScheme
from twofold.models.tensors import Checkpoint
from twofold.models.weights import WeightScheme
from twofold.plan import Plan


def decide_weights(plan: Plan, device: Device, checkpoint: Checkpoint | None) -> str:
    """ "stored" where matrices stay as `checkpoint` stores them, "dense" where they are widened, or the kind
    of quantised checkpoint that the plan names.

    ValueError where the plan asks for what the device cannot do, or nobody knows how they are stored.
    """
    asked = plan.engine.weights
    if asked == "dense":
        return asked
    if asked in CHECKPOINTS:
        if device.real:
            raise ValueError(
                f"weights {asked!r} stand for a checkpoint that was quantised elsewhere, which can be "
                "predicted; to run one give its files as the model, or quantise this one with technique "
                "int-vs-fp"
            )
        return asked
    if asked == "stored":
        if device.real and not device.stored_weights:
            raise ValueError(
                f"weights 'stored' need kernels that multiply them so, and {device.name} has none here; "
                "use weights 'dense', or kernels 'native' on device cpu"
            )
        if checkpoint is None:
            raise ValueError(
                f"weights 'stored': the files of {plan.model} are not here to say how they are stored; run "
                f"`twofold pull {plan.model}`, or use weights 'dense'"
            )
        return asked
    return "stored" if device.stored_weights and checkpoint is not None else "dense"


def weight_scheme(weights: str, actives: Sequence[Active]) -> WeightScheme | None:
    """What stores matrices in a way of its own: a technique, or a kind of quantised checkpoint; None where
    nothing does. ValueError where both do."""
    own: WeightScheme | None = the_one([a.weights for a in actives])
    if weights not in CHECKPOINTS:
        return own
    if own is not None:
        name = next(a.technique.info.name for a in actives if a.weights is not None)
        raise ValueError(
            f"weights {weights!r} and technique {name} both say how matrices are stored; drop one of them"
        )
    return QuantisedScheme(weights)
