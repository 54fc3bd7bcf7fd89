"""The models that can be pulled by name, read from registry.yaml, and where they lie once pulled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from twofold.errors import nearest


@dataclass(frozen=True, slots=True)
class WheelPart:
    """One file in a wheel: package `pypi` at `version`, `path` inside the wheel."""

    pypi: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file called `file` from a package index: its `parts` joined, `bytes` long, with that `sha256`."""

    file: str
    sha256: str
    bytes: int
    parts: tuple[WheelPart, ...]

    def __str__(self) -> str:
        return "package index: " + ", ".join(f"{p.pypi}=={p.version}" for p in self.parts)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A Hugging Face repository at one revision."""

    hf: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.hf} at {self.revision}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the registry.

    terms: what must be shown on pulling (empty = nothing beside the licence); spec: its name in the catalogue
    of architectures (empty = it has none), which the entry answers to as well.
    """

    name: str
    title: str
    licence: str
    sources: tuple[WheelSource | HubSource, ...]
    terms: str = ""
    spec: str = ""

    @property
    def folder(self) -> Path:
        """Where the model's files lie in the cache."""
        return models_dir() / self.name

    def place(self, source: WheelSource | HubSource) -> Path:
        """What `source` becomes in the cache: a file, or a Hugging Face directory."""
        return self.folder / (source.file if isinstance(source, WheelSource) else "hf")


def models_dir() -> Path:
    """The folder of pulled models: $TWOFOLD_CACHE/models, else `models` in the user's cache folder for
    twofold.
    """
    root = os.environ.get("TWOFOLD_CACHE") or platformdirs.user_cache_dir("twofold", appauthor=False)
    return Path(root).expanduser() / "models"


def _source(values: dict[str, Any]) -> WheelSource | HubSource:
    if "hf" in values:
        return HubSource(**values)
    return WheelSource(**{**values, "parts": tuple(WheelPart(**part) for part in values["parts"])})


@cache
def _entries() -> dict[str, Entry]:
    text = (resources.files("twofold.models") / "registry.yaml").read_text(encoding="utf-8")
    return {
        name: Entry(name=name, **{**values, "sources": tuple(_source(dict(s)) for s in values["sources"])})
        for name, values in yaml.safe_load(text).items()
    }


def registered_names() -> list[str]:
    """Names that can be pulled, sorted."""
    return sorted(_entries())


def get_entry(name: str) -> Entry:
    """The entry called `name` (any case; its catalogue name too); ValueError with the nearest name where
    there is none.
    """
    key = name.lower()
    for entry in _entries().values():
        if key in (entry.name, entry.spec):
            return entry
    raise ValueError(f"unknown model {name!r}; {nearest(name, _entries())}")


def cached_path(name: str) -> Path | None:
    """Where the pulled model `name` lies, None where it was not pulled. Nothing enters the cache before it is
    verified.
    """
    entry = get_entry(name)
    return next((path for path in map(entry.place, entry.sources) if path.exists()), None)
