"""The catalogue of architectures: `ModelSpec`s by name, without weights. One YAML file per family beside this
module.

A file holds `family`, `defaults` shared by its models, and `models` by name; an entry's keys are the fields
of `ModelSpec`, plus `aliases`. Every entry names the public configuration that it was read from as its
`source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any

import yaml

from twofold.errors import nearest
from twofold.models.spec import Experts, LatentAttention, ModelSpec, RopeScaling

_FIELDS = {f.name for f in fields(ModelSpec)} - {"name"}
_PARTS = {"rope_scaling": RopeScaling, "experts": Experts, "latent": LatentAttention}


@cache
def _entries() -> tuple[dict[str, ModelSpec], dict[str, str]]:
    """Specs by name, and names by alias."""
    specs: dict[str, ModelSpec] = {}
    aliases: dict[str, str] = {}
    folder = resources.files("twofold.models") / "catalog"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".yaml"):
            continue
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        shared = {"family": document["family"], **document.get("defaults", {})}
        for name, own in document["models"].items():
            keys = dict(own)
            assert name not in specs, f"{name} is in the catalogue twice"
            for alias in keys.pop("aliases", ()):
                assert alias not in aliases, f"alias {alias} is in the catalogue twice"
                aliases[alias] = name
            specs[name] = spec_from_mapping(name, {**shared, **keys})
    assert not specs.keys() & aliases.keys(), "an alias is also a name"
    return specs, aliases


def spec_from_mapping(name: str, values: Mapping[str, Any]) -> ModelSpec:
    """The spec called `name` with the fields given; ValueError for a key that `ModelSpec` does not have."""
    for key in values:
        if key not in _FIELDS:
            raise ValueError(f"{name}: unknown key {key!r}; {nearest(key, _FIELDS)}")
    parts = {key: part(**values[key]) for key, part in _PARTS.items() if key in values}
    return ModelSpec(name=name, **{**values, **parts})


def model_names(*, aliases: bool = False) -> list[str]:
    """Names of all architectures in the catalogue, sorted; with `aliases` the other names that they answer
    to as well."""
    specs, others = _entries()
    return sorted([*specs, *others] if aliases else specs)


def get_spec(name: str) -> ModelSpec:
    """The architecture called `name` (any case, aliases too); ValueError with the nearest name where there
    is none."""
    specs, aliases = _entries()
    key = name.lower()
    spec = specs.get(aliases.get(key, key))
    if spec is None:
        raise ValueError(f"unknown model {name!r}; {nearest(name, [*specs, *aliases])}")
    return spec
