"""What there is of techniques, as plain records: for lists and other programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from twofold.techniques.registry import technique_class, technique_names


def technique_records() -> list[dict[str, Any]]:
    """One record per technique: `name, kind, title, summary, seams, lossless, needs, params, behaviour,
    source`.

    params: defaults by name; behaviour: data-dependent quantities with the value that predictions use where
    none was recorded, and where that comes from.
    """
    return [_record(name) for name in technique_names()]


def _record(name: str) -> dict[str, Any]:
    found = technique_class(name)
    info = found.info
    return {
        "name": info.name,
        "kind": "technique",
        "title": info.title,
        "summary": info.summary,
        "seams": list(info.seams),
        "lossless": info.lossless,
        "needs": list(info.needs),
        "params": {field.name: _default(field) for field in dataclasses.fields(found)},
        "behaviour": {k: {"value": value, "source": source} for k, (value, source) in info.behaviour.items()},
        "source": info.source,
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    """A parameter's default; null where it has to be given."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = None if field.default is dataclasses.MISSING else field.default
    return list(value) if isinstance(value, tuple) else value
