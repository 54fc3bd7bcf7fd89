"""Which device of the catalogue a GPU is that a file of measurements names."""

from __future__ import annotations

from pathlib import Path

from twofold.devices.catalog import device_names
from twofold.errors import nearest

ALIASES = {
    "a100": "a100-80g-sxm",
    "a100-sxm": "a100-80g-sxm",
    "a100-pcie": "a100-80g-pcie",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "v100": "v100-32g-sxm2",
    "4090": "rtx-4090",
    "3090": "rtx-3090",
}
"""Short names, beside the names of the catalogue."""
LAYERS = {"a100": "a100-80g-pcie"}
"""Short names that mean another card in tables of layers. Vidur does not say which A100 its tables come from;
its nodes with pairwise NVLink have PCIe cards, and with their bandwidth and 300 W the tables agree better
with others of A100 (SXM, 400 W) under the same parameters: a joint fit errs by 7.4 % instead of 8.1 %."""


def split_name(path: Path, prefix: str, special: dict[str, str] | None = None) -> tuple[str, str]:
    """(device, rest) of a file named `<prefix><gpu>[-<rest>].csv`; the longest name that fits counts.

    special: short names that mean another device here. ValueError for a GPU that the catalogue does not have.
    """
    known = {name: name for name in device_names()} | ALIASES | (special or {})
    name = path.stem.removeprefix(prefix)
    words = name.split("-")
    for count in range(len(words), 0, -1):
        key = "-".join(words[:count])
        if key in known and known[key] in device_names():
            return known[key], "-".join(words[count:])
    raise ValueError(f"{path.name}: no device {words[0]!r} in the catalogue; {nearest(words[0], known)}")
