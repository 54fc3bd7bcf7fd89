"""The results database for the results view: a row per result, and comparisons with their plots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import unescape
from pathlib import Path
from typing import Any

from twofold.report.comparison import CHECKED, Comparison, Row
from twofold.report.html import summary
from twofold.report.pictures import pictures
from twofold.report.schema import Result
from twofold.report.store import Store, Stored, default_path

MOST = 2000
"""Results that are listed, the newest."""
SHOWN = ("ttft", "tpot", "e2e", "tokens_per_s", "energy_per_token")


def rows() -> dict[str, Any]:
    """`path` of the database, and `results`: the newest `MOST`, newest first, each as one flat record.

    Figures are `{low, mid, high, unit}` or null; error: of the prediction of this measurement in the same
    comparison, by figure (predicted / measured − 1).
    """
    path = default_path()
    return {"path": str(path), "results": _rows(path, _state(path)), "most": MOST}


def compare(numbers: Sequence[int]) -> dict[str, Any]:
    """The results `numbers` side by side, the first being the baseline: `title, summary, rows, pictures`.

    ValueError where there is none of that number, or they are of different models.
    """
    if not numbers:
        raise ValueError("choose at least one result")
    store = Store()
    return shown(join([store.get(number) for number in dict.fromkeys(numbers)]))


def comparison(number: int) -> dict[str, Any]:
    """The comparison of that number, as `compare`."""
    return shown(Store().get_comparison(number))


def join(results: Sequence[Result]) -> Comparison:
    """`results` as a comparison: measurements and predictions of the same techniques are held against each
    other, and those for other devices stand beside them. The first is the baseline."""
    first = results[0]
    others = sorted({r.model for r in results} - {first.model})
    if others:
        raise ValueError(
            f"results of {first.model} and of {', '.join(others)} cannot be compared; choose one model"
        )
    here = next((r for r in results if r.kind == "run"), first)
    labels = list(dict.fromkeys(r.label for r in results))
    found = [_row(label, [r for r in results if r.label == label], here) for label in labels]
    return Comparison(
        title="Chosen results" if len(results) > 1 else first.label,
        model=first.model,
        device=here.device,
        workload=first.workload,
        baseline=found[0],
        rows=found[1:],
        notes=_notes(results),
    )


def shown(found: Comparison) -> dict[str, Any]:
    """What a browser needs of a comparison. pictures: `title, caption, svg, alt`."""
    return {
        "title": found.title,
        "model": found.model,
        "device": found.device,
        "workload": found.workload.summary,
        "summary": summary(found) if found.rows else [],
        "notes": found.notes,
        "rows": [_compared(row) for row in found.all_rows],
        "median_error": {name: found.median_error(name) for name in CHECKED},
        "pictures": [{**picture._asdict(), "alt": _described(picture.svg)} for picture in pictures(found)],
    }


def _row(label: str, results: Sequence[Result], here: Result) -> Row:
    """The results called `label`; of several of one kind the last one given counts."""
    on_this = {"this-cpu", here.device} if here.kind == "run" else {here.device}
    predicted = [r for r in results if r.kind == "predict"]
    return Row(
        label=label,
        measured=next((r for r in reversed(results) if r.kind == "run"), None),
        predicted_here=next((r for r in reversed(predicted) if r.device in on_this), None),
        predicted_elsewhere={r.device: r for r in predicted if r.device not in on_this},
    )


def _notes(results: Sequence[Result]) -> list[str]:
    loads = list(dict.fromkeys(r.workload.summary for r in results))
    return [f"These results are of different loads: {'; '.join(loads)}."] if len(loads) > 1 else []


def _compared(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "refused": row.refused,
        "measured": _figures(row.measured),
        "predicted": _figures(row.predicted_here),
        "errors": row.errors,
    }


def _figures(result: Result | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {name: None if (figure := result.figure(name)) is None else figure.model_dump() for name in SHOWN}


def _described(svg: str) -> str:
    """The description that a plot carries inside."""
    return unescape(svg.partition("<desc")[2].partition(">")[2].partition("</desc>")[0])


def _state(path: Path) -> tuple[float, ...]:
    """What changes whenever the database does."""
    files = (path, path.with_name(path.name + "-wal"))
    return tuple(value for f in files if f.exists() for value in (f.stat().st_mtime, f.stat().st_size))


@lru_cache(maxsize=1)
def _rows(path: Path, state: tuple[float, ...]) -> list[dict[str, Any]]:
    del state
    found = Store(path).find(limit=MOST)
    predictions: dict[tuple[int | None, str], Result] = {
        (s.comparison, s.result.label): s.result
        for s in found
        if s.comparison is not None and s.result.kind == "predict" and s.result.device == "this-cpu"
    }
    return [_listed(s, predictions.get((s.comparison, s.result.label))) for s in found]


def _listed(stored: Stored, predicted: Result | None) -> dict[str, Any]:
    r = stored.result
    quality = r.quality.kl_divergence if r.quality is not None else None
    errors = {}
    if r.kind == "run" and predicted is not None:
        errors = Row(label=r.label, measured=r, predicted_here=predicted).errors
    return {
        "id": stored.id,
        "comparison": stored.comparison,
        "created": r.created.isoformat(),
        "kind": r.kind,
        "model": r.model,
        "device": r.device,
        "label": r.label,
        "techniques": [use.name for use in r.techniques],
        "load": r.workload.summary,
        "confidence": r.confidence,
        **(_figures(r) or {}),
        "memory": r.memory.total.model_dump(),
        "kl": None if quality is None else quality.model_dump(),
        "error": errors,
    }
