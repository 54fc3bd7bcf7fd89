"""The catalogue of modelled devices: one YAML file each beside this module, found by name, or a file of the
user's own.

`this-cpu` is the file that a calibration wrote for this machine.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from platformdirs import user_config_dir
from pydantic import ValidationError

from twofold.devices.figures import EnergyPerByte, Strict
from twofold.devices.schema import DeviceFile, Generation
from twofold.errors import nearest

THIS_CPU = "this-cpu"


class EnergyTable(Strict):
    """Energy per byte by memory and link technology, of a cache access, and their sources; shared by all
    devices."""

    sources: dict[str, str]
    memory: dict[str, EnergyPerByte]
    link: dict[str, EnergyPerByte]
    cache: EnergyPerByte


def _folder() -> Traversable:
    return resources.files("twofold.devices") / "catalog"


def device_names() -> list[str]:
    """Names of the devices that come with the package, sorted."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def generation_names() -> list[str]:
    """Names of the shared efficiencies that a device file may refer to, sorted."""
    names = (_folder() / "generations").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in names if f.name.endswith(".yaml"))


def this_cpu_path() -> Path:
    """Where the calibration of this machine is kept: $TWOFOLD_CACHE/devices, else the user's configuration
    folder."""
    base = os.environ.get("TWOFOLD_CACHE") or user_config_dir("twofold")
    return Path(base) / "devices" / f"{THIS_CPU}.yaml"


def get_device(name: str) -> DeviceFile:
    """The device file called `name` (any case), `this-cpu`, or the one at the path `name`.

    ValueError for an unknown name (with the nearest one), a file that is missing or that breaks the schema.
    """
    if name.endswith((".yaml", ".yml")):
        return read_device(Path(name))
    key = name.lower()
    if key == THIS_CPU:
        path = this_cpu_path()
        if not path.is_file():
            raise ValueError(f"{path} does not exist: run `twofold calibrate` to measure this machine first")
        try:
            return read_device(path)
        except ValueError as error:
            raise ValueError(f"{error}; run `twofold calibrate` again, which writes a new file") from None
    if key not in device_names():
        raise ValueError(f"unknown device {name!r}; {nearest(name, [*device_names(), THIS_CPU])}")
    return _catalogued(key)


def read_device(path: Path) -> DeviceFile:
    """The device file at `path`; ValueError where it cannot be read or breaks the schema."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read device file {path}: {error.strerror}") from None
    return parse_device(text, str(path))


@cache
def _catalogued(name: str) -> DeviceFile:
    return parse_device((_folder() / f"{name}.yaml").read_text(encoding="utf-8"), f"catalog/{name}.yaml")


def parse_device(text: str, where: str) -> DeviceFile:
    """The device described by YAML `text`; `where` names it in errors."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{where} holds no device: the file must be a mapping")
    try:
        return DeviceFile(**_with_generation(document, where))
    except ValidationError as error:
        raise ValueError(f"{where}: {_first(error)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _with_generation(document: dict[str, Any], where: str) -> dict[str, Any]:
    """`document` with the efficiencies that it refers to by name; their sources are added under the same
    keys."""
    name = document.get("efficiency")
    if not isinstance(name, str):
        return document
    if name not in generation_names():
        raise ValueError(f"{where}: unknown efficiency {name!r}; {nearest(name, generation_names())}")
    shared = _generation(name)
    sources = {**shared.sources, **document.get("sources", {})}
    return {"generation": name, **document, "efficiency": shared.efficiency, "sources": sources}


@cache
def _generation(name: str) -> Generation:
    return Generation(
        **yaml.safe_load((_folder() / "generations" / f"{name}.yaml").read_text(encoding="utf-8"))
    )


@cache
def energy_table() -> EnergyTable:
    """The shared energy figures."""
    return EnergyTable(**yaml.safe_load((_folder() / "shared" / "energy.yaml").read_text(encoding="utf-8")))


def _first(error: ValidationError) -> str:
    """The first problem of a validation, as one line."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
