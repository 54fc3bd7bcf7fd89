"""Constructed samples: plausible in shape, invented in value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from twofold.validate.sample import Sample

DEVICES = (("h100-sxm", "hopper"), ("h200-sxm", "hopper"), ("a100-80g-sxm", "ampere"), ("rtx-4090", "ada"))


def sample(measured: float = 1.0, predicted: float = 1.0, **changes: Any) -> Sample:
    """A sample with `changes`."""
    values: dict[str, Any] = {
        "group": "made-up",
        "case": "a case",
        "quantity": "tpot",
        "unit": "s",
        "device": "h100-sxm",
        "generation": "hopper",
        "precision": "bf16",
        "fitted": False,
        "label": "datasheet",
        "model": "llama",
    }
    return Sample(measured=measured, predicted=predicted, **(values | changes))


def population(
    seed: int = 0,
    *,
    points: int = 40,
    noise: float = 0.1,
    model: float = 0.0,
    generation: float = 0.0,
    precision: float = 0.0,
) -> Iterator[Sample]:
    """Samples whose residuals are normal with deviation `noise`, plus an offset of its own for every model,
    every generation and every precision, drawn with these deviations."""
    draw = np.random.default_rng(seed)
    by_generation = {name: draw.normal(0, generation) for _, name in DEVICES} if generation else {}
    by_precision = {name: draw.normal(0, precision) for name in ("bf16", "fp8")} if precision else {}
    for device, name in DEVICES:
        for number in range(4):
            own = draw.normal(0, model) if model else 0.0
            for index in range(points):
                form = "fp8" if index % 2 else "bf16"
                offset = own + by_generation.get(name, 0.0) + by_precision.get(form, 0.0)
                residual = offset + draw.normal(0, noise)
                yield sample(
                    1.0,
                    float(np.exp(-residual)),
                    case=f"{device} {number} {index}",
                    device=device,
                    generation=name,
                    precision=form,
                    model=f"model-{number}",
                )
