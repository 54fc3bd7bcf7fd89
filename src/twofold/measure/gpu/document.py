"""What was measured on a GPU, written down as a device file: the catalogue's entry of that card, with the
measured figures in place of the datasheet's where they mean the same."""

from __future__ import annotations

import re
import subprocess
from importlib import resources
from typing import Any, NamedTuple

import yaml

from twofold.devices.catalog import device_names, get_device
from twofold.devices.microbench import Microbenchmarks

THIS_GPU = "this-gpu"

_CARDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("gb200",), "gb200"),
    (("b300",), "b300"),
    (("b200",), "b200"),
    (("h200",), "h200-sxm"),
    (("h20",), "h20"),
    (("h100", "pcie"), "h100-pcie"),
    (("h100", "hbm3"), "h100-sxm"),
    (("a100", "sxm4", "80gb"), "a100-80g-sxm"),
    (("a100", "sxm4", "40gb"), "a100-40g-sxm"),
    (("a100", "pcie"), "a100-80g-pcie"),
    (("l40s",), "l40s"),
    (("l4",), "l4"),
    (("rtx 4090",), "rtx-4090"),
    (("rtx 3090",), "rtx-3090"),
    (("rtx pro 6000",), "rtx-pro-6000"),
    (("rtx a6000",), "a6000"),
    (("a10",), "a10"),
    (("a30",), "a30"),
    (("a40",), "a40"),
    (("v100", "sxm2", "32gb"), "v100-32g-sxm2"),
    (("tesla t4",), "t4"),
)
"""Words of the names that drivers give to cards, and their files in the catalogue; the first that fits."""


class Card(NamedTuple):
    """What the driver tells of a GPU. capability: compute capability; power: idle and limit in W, None where
    nvidia-smi is not here or does not tell; units: SMs; memory: bytes; driver: its version and torch's."""

    name: str
    capability: tuple[int, int]
    units: int
    memory: int
    power: tuple[float, float] | None
    software: str


def catalogued(name: str) -> str:
    """The catalogue's name of the card that drivers call `name`; ValueError where it has none."""
    lower = name.lower().replace("-", " ")
    for words, file in _CARDS:
        if all(re.search(rf"\b{word}\b", lower) for word in words):
            return file
    raise ValueError(
        f"the catalogue has no {name!r}: write a device file from its datasheet first (see CONTRIBUTING.md); "
        f"known are {', '.join(file for _, file in _CARDS)}"
    )


def gpu_document(card: Card, found: Microbenchmarks) -> dict[str, Any]:
    """The device file as plain data."""
    base = catalogued(card.name)
    assert base in device_names()
    text = (resources.files("twofold.devices") / "catalog" / f"{base}.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    document |= {
        "name": THIS_GPU,
        "title": f"{card.name}, measured",
        "microbenchmarks": found.model_dump(mode="json"),
    }
    document["sources"][found.source] = f"twofold calibrate --device cuda, {card.software}"

    def figure(value: float) -> dict[str, Any]:
        return {"value": float(value), "source": found.source}

    document["units"] = {"count": figure(card.units)}
    document["memory"]["capacity"] = figure(card.memory)
    ways = [found.best(name) for name in ("host to device", "device to host")]
    if "host" in document and all(ways):
        document["host"]["bandwidth"] = figure(min(reading.value for reading in ways if reading))
    peer = found.best("peer copy")
    if peer is not None and "link" in document:
        document["link"]["bandwidth"] = figure(peer.value)
    if card.power is not None:
        document["power"] = {"idle": figure(card.power[0]), "limit": figure(card.power[1])}
    return document


def shares(card: Card, found: Microbenchmarks) -> list[tuple[str, float]]:
    """(what, share of the datasheet's figure that was reached) for memory and each precision."""
    file = get_device(catalogued(card.name))
    reached = []
    largest = [r for r in found.readings if r.bench == "triad"][-1:]
    reached += [("memory bandwidth, triad", r.value / file.memory.bandwidth.value) for r in largest]
    for precision, peak in file.matmul.items():
        best = found.best(f"{precision} product")
        if best is not None:
            reached.append((f"{precision} product, {best.case}", best.value / peak.value))
    return reached


def read_power(query: str = "nvidia-smi") -> tuple[float, float] | None:
    """Watts drawn now and the limit, by nvidia-smi; None where it is missing or does not tell. Ask before any
    work is launched: what is drawn then is the idle power."""
    command = [query, "--query-gpu=power.draw,power.limit", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        draw, limit = (float(part) for part in done.stdout.strip().splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return (draw, limit) if 0 < draw <= limit else None
