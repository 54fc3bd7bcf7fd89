"""How quantised matrices are held: what the plan says, or what suits the device where it says nothing."""

from __future__ import annotations

from twofold.devices.base import Device
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan


def decide_stored(plan: Plan, device: Device, checkpoint: Checkpoint | None) -> bool:
    """Whether matrices stay as `checkpoint` stores them, where they are quantised there.

    ValueError where the plan asks for that and the device cannot, or nobody knows how they are stored.
    """
    asked = plan.engine.weights
    if asked == "dense":
        return False
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
        return True
    return device.stored_weights and checkpoint is not None
