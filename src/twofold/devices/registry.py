"""Every device by name: the real ones, the machines that are classes, and the catalogue of roofline files."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal

from twofold.devices import catalog, machines
from twofold.devices.base import Device
from twofold.devices.cluster import Cluster
from twofold.errors import nearest

if TYPE_CHECKING:
    from twofold.devices.machine import Machine

REAL = ("cpu", "cuda")
Kernels = Literal["auto", "native", "native-fp32", "reference"]
"""Which kernels the device `cpu` runs; see `devices.cpu_device`."""

MACHINES = tuple(sorted(module.name.replace("_", "-") for module in iter_modules(machines.__path__)))
"""Machines that map ops in their own way, one file each."""


def is_machine(name: str) -> bool:
    """Whether that is a machine, or a file that describes one."""
    return name in MACHINES or name.endswith(".py")


@cache
def machine_class(name: str) -> type[Machine]:
    """The class of the machine called `name`, or `MACHINE` of the Python file of that path. ValueError with
    the nearest name where there is none."""
    if name.endswith(".py"):
        return _machine_in(Path(name))
    if name not in MACHINES:
        raise ValueError(f"unknown machine {name!r}; {nearest(name, MACHINES)}")
    module = import_module(f"{machines.__name__}.{name.replace('-', '_')}")
    found: type[Machine] = module.MACHINE
    assert found.name == name, f"the machine of {module.__name__} is called {found.name}"
    return found


def _machine_in(path: Path) -> type[Machine]:
    """The machine of a file of the user's own, which is executed."""
    from twofold.devices.machine import Machine

    spec = spec_from_file_location(f"twofold_machine_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{path}: no such file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the names of their fields' types
    spec.loader.exec_module(module)
    found = getattr(module, "MACHINE", None)
    if not (isinstance(found, type) and issubclass(found, Machine)):
        raise ValueError(f"{path}: it must end with MACHINE = the subclass of Machine that it defines")
    return found


def device_names() -> list[str]:
    """All names that `make_device` knows, but for files of the user's own."""
    return [*REAL, catalog.THIS_CPU, *modelled_names()]


def modelled_names() -> list[str]:
    """Names of all modelled devices, but for `this-cpu`."""
    return sorted([*MACHINES, *catalog.device_names()])


def most_linked(name: str) -> int:
    """How many devices of that name can share a model within a node."""
    if is_machine(name):
        return machine_class(name).most
    link = catalog.get_device(name).link
    return 1 if link is None else int(link.devices.value)


def is_real(name: str) -> bool:
    """Whether the device computes (as opposed to being modelled)."""
    return name in REAL


def make_device(
    name: str,
    *,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    profile: bool = False,
    kernels: Kernels = "auto",
    threads: int | None = None,
    rank: int = 0,
) -> Device:
    """The device called `name` (or described by the YAML file of that path), one rank of a deployment on tp ·
    pp · dp of them; on a real device number `rank` of tp, each of which is a process.

    kernels and threads: of the device `cpu` (see `devices.cpu_device`); a modelled device has neither.
    ValueError for an unknown name, for a parallelism that the device cannot have, or for kernels that are not
    here.
    """
    if is_real(name):
        if pp * dp * ep > 1:
            raise ValueError(
                f"device {name!r} runs a model whole or cut by tp; pp={pp}, dp={dp}, ep={ep} can be "
                "predicted (for replicas run one engine each)"
            )
        return _real(name, kernels, threads, profile, rank, tp)
    if is_machine(name):
        if pp * dp * ep > 1:
            raise ValueError(f"{name} shares a model by tp alone, if at all; pp, dp and ep are of rooflines")
        return machine_class(name).make(tp=tp)
    if name not in device_names() and not name.endswith((".yaml", ".yml")):
        raise ValueError(f"unknown device {name!r}; {nearest(name, device_names())}")
    return Cluster(catalog.get_device(name), tp, pp, dp, ep).rank()


def _real(name: str, kernels: Kernels, threads: int | None, profile: bool, rank: int, ranks: int) -> Device:
    # Imported here, since listing devices needs no torch.
    if name == "cpu":
        from twofold.devices.cpu_device import CpuDevice

        return CpuDevice(kernels=kernels, threads=threads, profile=profile, rank=rank, ranks=ranks)
    from twofold.devices.torch_device import TorchDevice

    if kernels not in ("auto", "reference"):
        raise ValueError(f"kernels {kernels!r} are of device 'cpu'; device {name!r} runs on 'reference'")
    if threads is not None:
        raise ValueError(f"threads are those of device 'cpu'; device {name!r} has none to set")
    return TorchDevice(name, profile=profile, rank=rank, ranks=ranks)
