"""What there is of models, as plain records: for lists and other programs. Loads no torch."""

from __future__ import annotations

from typing import Any

from twofold.models.catalog import get_spec, model_names
from twofold.models.registry import cached_path, get_entry, registered_names


def model_records() -> list[dict[str, Any]]:
    """One record per model: `name, family, parameters, layers, hidden, heads, kv_heads, max_context, pull,
    path, licence, source`.

    pull: the name that `twofold pull` takes, null where only the architecture is known; path: where the
    weights lie, null where they were not pulled. Figures are null for models whose architecture is read from
    their files.
    """
    entries = {entry.spec or entry.name: entry for entry in map(get_entry, registered_names())}
    records = []
    for name in sorted({*model_names(), *entries}):
        entry = entries.get(name)
        path = cached_path(entry.name) if entry else None
        records.append(
            {
                "name": name,
                **_architecture(name),
                "pull": entry.name if entry else None,
                "path": str(path) if path else None,
                "licence": entry.licence if entry else None,
            }
        )
    return records


def _architecture(name: str) -> dict[str, Any]:
    keys = ("family", "parameters", "layers", "hidden", "heads", "kv_heads", "max_context", "source")
    if name not in model_names():
        return dict.fromkeys(keys)
    s = get_spec(name)
    values = (
        s.family,
        s.num_parameters(),
        s.num_layers,
        s.hidden,
        s.num_heads,
        s.num_kv_heads,
        s.max_context,
        s.source,
    )
    return dict(zip(keys, values, strict=True))
