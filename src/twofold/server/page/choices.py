"""What the explore view can choose from: models, devices, techniques with their parameters, and which pairs
are refused."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, get_args

from twofold.devices.listing import device_records
from twofold.engine.serving_profile import get_serving, serving_names
from twofold.models.catalog import get_spec, model_names
from twofold.models.listing import model_records
from twofold.plan import EnginePlan, Plan
from twofold.techniques.listing import technique_records
from twofold.techniques.pairs import all_pairs
from twofold.techniques.registry import technique_class


@cache
def choices() -> dict[str, Any]:
    """`models, devices, techniques, refused (pairs), serving, weights, cache_formats, precisions`, as JSON
    holds them. Devices are those that can be predicted here now."""
    return {
        "models": [_model(record) for record in model_records() if _known(record)],
        "devices": [_device(record) for record in device_records() if _predictable(record)],
        "techniques": [
            {**record, "fields": technique_fields(record["name"])} for record in technique_records()
        ],
        "refused": [dataclasses.asdict(pair) for pair in all_pairs() if not pair.allowed],
        "serving": [{"name": name, "title": get_serving(name).title} for name in serving_names()],
        "weights": list(get_args(EnginePlan.model_fields["weights"].annotation)),
        "cache_formats": list(get_args(EnginePlan.model_fields["cache_format"].annotation)),
        "precisions": list(get_args(Plan.model_fields["precision"].annotation)),
    }


def technique_fields(name: str) -> list[dict[str, Any]]:
    """The parameters of a technique: `name, type ("number", "switch", "text"), default, optional`; a text may
    be a list such as "3;5;7"."""
    found = []
    for field in dataclasses.fields(technique_class(name)):
        kind = str(field.type)
        default = None if field.default is dataclasses.MISSING else field.default
        found.append(
            {
                "name": field.name,
                "type": "switch" if kind == "bool" else "number" if _is_number(kind) else "text",
                "whole": kind.startswith("int"),
                "default": list(default) if isinstance(default, tuple) else default,
                "optional": "None" in kind,
            }
        )
    return found


def _is_number(kind: str) -> bool:
    return kind.split(" |")[0] in ("int", "float")


def _known(record: dict[str, Any]) -> bool:
    """Whether a model can be predicted: its architecture is known, or its files are here."""
    return record["parameters"] is not None or record["path"] is not None


def _model(record: dict[str, Any]) -> dict[str, Any]:
    experts = record["name"] in model_names() and get_spec(record["name"]).experts is not None
    keys = ("name", "family", "parameters", "max_context")
    return {**{key: record[key] for key in keys}, "here": record["path"] is not None, "experts": experts}


def _predictable(record: dict[str, Any]) -> bool:
    return not record["real"] and "calibration" not in record["needs"]


def _device(record: dict[str, Any]) -> dict[str, Any]:
    keys = ("name", "title", "kind", "confidence", "memory_bytes", "bandwidth", "peak")
    return {key: record[key] for key in keys}
