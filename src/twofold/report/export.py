"""Results as text for other programs: JSON (the full schema) and CSV (one row per result, one column per
number)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from twofold.report.schema import FIGURES, Result
from twofold.report.store import Stored

_MEMORY = ("weights", "cache", "activations", "other", "total", "unaccounted")
_QUALITY = ("kl_divergence", "top1_agreement", "perplexity", "perplexity_baseline")


def to_json(stored: Iterable[Stored]) -> str:
    """A JSON list of results in the documented schema, each with its `id` and `comparison` in the
    database."""
    rows = [{"id": s.id, "comparison": s.comparison, **s.result.model_dump(mode="json")} for s in stored]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def to_csv(stored: Iterable[Stored]) -> str:
    """CSV with a header. Figures take three columns (`ttft_low`, `ttft_mid`, `ttft_high`), in the schema's
    units; what is unknown is empty. Techniques are written as `name:key=value,key=value`, joined by `+`."""
    rows = [_flat(s) for s in stored]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns or ["id"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(stored: Stored) -> dict[str, object]:
    result = stored.result
    row: dict[str, object] = {
        "id": stored.id,
        "comparison": stored.comparison,
        "created": result.created.isoformat(),
        "kind": result.kind,
        "confidence": result.confidence,
        "label": result.label,
        "model": result.model,
        "device": result.device,
        "parallel": ",".join(f"{k}={v}" for k, v in result.parallel.items()),
        "techniques": _techniques(result),
        "requests": result.workload.requests,
        "prompt_tokens": result.workload.prompt_tokens,
        "output_tokens": result.workload.output_tokens,
        "concurrency": result.workload.concurrency,
    }
    for name in FIGURES:
        if name != "quality":
            figure = result.figure(name)
            for end in ("low", "mid", "high"):
                row[f"{name}_{end}"] = None if figure is None else getattr(figure, end)
    for part in _MEMORY:
        figure = getattr(result.memory, part)
        row[f"memory_{part}"] = None if figure is None else figure.mid
    for name in _QUALITY:
        figure = getattr(result.quality, name) if result.quality else None
        row[name] = None if figure is None else figure.mid
    for length, score in sorted(result.quality.passkey.items()) if result.quality else ():
        row[f"passkey_{length}"] = score.mid
    return row


def _techniques(result: Result) -> str:
    return "+".join(
        t.name + (":" + ",".join(f"{k}={v}" for k, v in t.params.items()) if t.params else "")
        for t in result.techniques
    )
