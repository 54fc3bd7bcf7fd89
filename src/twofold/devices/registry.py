"""Every device by name: the real ones, the machines that are classes, and the catalogue of roofline files."""

from __future__ import annotations

from collections.abc import Callable

from twofold.devices import catalog
from twofold.devices.base import Device
from twofold.devices.cluster import Cluster
from twofold.devices.modelled import ModelledDevice
from twofold.devices.pim_gpt import PimGpt
from twofold.errors import nearest

REAL = ("cpu", "cuda")
MACHINES: dict[str, Callable[[], ModelledDevice]] = {"pim-gpt": PimGpt}
"""Machines that map ops in their own way, one class each."""


def device_names() -> list[str]:
    """All names that `make_device` knows, but for files of the user's own."""
    return [*REAL, catalog.THIS_CPU, *modelled_names()]


def modelled_names() -> list[str]:
    """Names of all modelled devices, but for `this-cpu`."""
    return sorted([*MACHINES, *catalog.device_names()])


def is_real(name: str) -> bool:
    """Whether the device computes (as opposed to being modelled)."""
    return name in REAL


def make_device(
    name: str, *, tp: int = 1, pp: int = 1, dp: int = 1, ep: int = 1, profile: bool = False
) -> Device:
    """The device called `name` (or described by the YAML file of that path), one rank of a deployment on tp ·
    pp · dp of them.

    ValueError for an unknown name, or for a parallelism that the device cannot have.
    """
    several = tp * pp * dp > 1
    if is_real(name):
        if several:
            raise ValueError(f"device {name!r} runs on one device; parallelism (tp, pp, dp) can be predicted")
        from twofold.devices.torch_device import TorchDevice  # only here: listing devices needs no torch

        return TorchDevice(name, profile=profile)
    if name in MACHINES:
        if several:
            raise ValueError(f"{name} is a single machine; it has no tp, pp or dp")
        return MACHINES[name]()
    if name not in device_names() and not name.endswith((".yaml", ".yml")):
        raise ValueError(f"unknown device {name!r}; {nearest(name, device_names())}")
    return Cluster(catalog.get_device(name), tp, pp, dp, ep).rank()
