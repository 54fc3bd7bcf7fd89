"""DRACO's headline: MobileNetV1 on a 64 x 64 row-stationary array, as published and with wider groups.

The layers are those of the network (arXiv:1704.04861, table 1; the authors' simulator has the same), one
image at a time. Batch norm, activations and pooling are not counted, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from twofold.claims.ledger import Outcome
from twofold.devices.dense_array import ELEMENT
from twofold.devices.machine import Machine
from twofold.devices.machines.draco import Draco
from twofold.devices.machines.row_stationary import RowStationaryArray
from twofold.ops import Conv2d
from twofold.techniques.base import Claim

IMAGE = 224
STEM = 32
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
"""Channels out of each depthwise-separable block, and its stride."""
CLASSES = 1000

GROUPS = (1, 2, 4, 8, 16, 32)

_MODEL, _HARDWARE = "MobileNetV1, batch 1", "64 x 64 array (simulated by nn-dataflow)"
_SOURCE, _BASELINE = "arXiv:2006.15103, abstract", "the same network unchanged, row-stationary dataflow"


def _claim(key: str, figure: str, value: float) -> Claim:
    return Claim(
        f"draco-{key}",
        figure,
        (value, value),
        "%",
        _BASELINE,
        _MODEL,
        _HARDWARE,
        _SOURCE,
        setup="draco:outcome",
    )


CLAIMS = (
    _claim("utilisation", "gain in average utilisation of processing elements", 41.8),
    _claim("latency", "reduction of inference latency", 42.6),
)

HEADLINE = "images/s of MobileNetV1 at batch 1"
SHOWN: dict[str, Any] = {
    "model": "llama-2-7b",
    "precision": "bf16",
    "workload": {"prompt": 512, "output": 32},
    "engine": {"max_num_seqs": 1},
}


def mobilenet() -> Iterator[Conv2d]:
    """The layers of MobileNetV1 that multiply; the last is its classifier."""
    yield _layer(3, STEM, IMAGE, 3, stride=2)
    channels, size = STEM, IMAGE // 2
    for outputs, stride in BLOCKS:
        yield _layer(channels, channels, size, 3, stride=stride, groups=channels)
        size //= stride
        yield _layer(channels, outputs, size, 1)
        channels = outputs
    yield _layer(channels, CLASSES, 1, 1)


def _layer(inputs: int, outputs: int, size: int, kernel: int, *, stride: int = 1, groups: int = 1) -> Conv2d:
    stored = outputs * inputs // groups * kernel**2 * ELEMENT
    return Conv2d(
        1,
        inputs,
        outputs,
        size,
        size,
        kernel,
        "f16",
        stored,
        "fp16",
        ELEMENT,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
    )


def utilisation(machine: RowStationaryArray) -> float:
    """Share of the elements' slots that compute, the mean of all layers."""
    shares = [machine.mapped(op).utilisation for op in mobilenet()]
    return sum(shares) / len(shares)


def seconds(machine: Machine) -> float:
    """Of one image."""
    return sum(machine.charge(op, op.cost()).seconds for op in mobilenet())


def with_groups(channels: int) -> Draco:
    """The machine for a network with groups of that many channels."""
    return Draco(replace(Draco().figures, channels=channels))


def outcome(claim: Claim) -> Outcome:
    """Ours for one of CLAIMS, with the groups that take the least time."""
    gain = _utilisation_gain if "utilisation" in claim.key else _latency_cut
    ours = gain(Draco())
    others = ", ".join(f"{gain(with_groups(g)):.1f} with {g}" for g in GROUPS[1:])
    return Outcome(
        (ours, ours),
        "the mapping is that of the authors' simulator; which groups were trained could not be read: of four "
        f"channels here, which take the least time ({others}). It rests on groups that share no pass: where "
        "channels of a depthwise layer lie side by side, the array is busy without any change",
        f"{len(list(mobilenet()))} layers predicted",
    )


def _utilisation_gain(machine: Draco) -> float:
    return 100 * (utilisation(machine) / utilisation(RowStationaryArray()) - 1)


def _latency_cut(machine: Draco) -> float:
    return 100 * (1 - seconds(machine) / seconds(RowStationaryArray()))


def headline(machine: Machine) -> float:
    """See HEADLINE."""
    return 1 / seconds(machine)
