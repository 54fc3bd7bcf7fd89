"""The parts of the documentation that follow from the code and from stored measurements, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from twofold.claims.collect import all_claims
from twofold.claims.ledger import build_ledger
from twofold.claims.page import to_page
from twofold.claims.picture import claimed_against_ours
from twofold.devices import catalog
from twofold.devices.listing import device_records
from twofold.devices.registry import MACHINES
from twofold.models.catalog import get_spec, model_names
from twofold.report import device_comparison, table
from twofold.report.accuracy import Accuracy
from twofold.report.accuracy import grid as accuracy_grid
from twofold.report.comparison import Comparison
from twofold.report.cpu_tables import answers, beside_llamacpp, grid_of_loads
from twofold.report.glance import glance_grid
from twofold.report.matvec import MatvecRow, MatvecTable
from twofold.report.pictures import pictures
from twofold.report.tool_tables import beside_genz
from twofold.server import metrics, reference
from twofold.techniques.pairs import all_pairs
from twofold.techniques.registry import technique_class, technique_names

PICTURE = "Speed against quality"


def techniques() -> str:
    """Every technique: what it does, its seam, parameters with defaults, whether output is unchanged,
    source."""
    rows = []
    for name in technique_names():
        cls = technique_class(name)
        info = cls.info
        params = ", ".join(f"`{f.name}={f.default}`" for f in fields(cls)) or "none"
        output = "unchanged" if info.lossless else "approximate"
        rows.append((f"`{name}`", info.summary, ", ".join(info.seams), params, output, info.source))
    return table.markdown(("technique", "what it does", "seam", "parameters", "output", "source"), rows)


def seams() -> str:
    """The names of all techniques, under the seam that each lists first."""
    groups: dict[str, list[str]] = {}
    for name in technique_names():
        groups.setdefault(technique_class(name).info.seams[0], []).append(name)
    rows = [
        (seam, len(names), " · ".join(f"`{name}`" for name in names))
        for seam, names in sorted(groups.items())
    ]
    return table.markdown(("seam", "", "techniques"), rows)


def pairs() -> str:
    """How many pairs of techniques run, and why the others do not, by reason."""
    found = all_pairs()
    refused = [pair for pair in found if not pair.allowed]
    rows = [(f"`{pair.first}` + `{pair.second}`", pair.reason) for pair in refused]
    told = f"{len(found) - len(refused)} of {len(found)} pairs run; these do not:"
    return f"{told}\n\n{table.markdown(('pair', 'reason'), rows)}"


def devices() -> str:
    """Every modelled device with its main figures; each figure's source is in its file."""
    rows = []
    for record in device_records():
        if record["real"] or record["name"] == catalog.THIS_CPU:
            continue
        peak = record["peak"] or {}
        precision = next((p for p in ("bf16", "fp16", "fp32") if p in peak), None)
        rate = f"{peak[precision] / 1e12:,.3g} ({precision})" if precision else "-"
        bandwidth = f"{record['bandwidth'] / 1e9:,.0f}" if record["bandwidth"] else "-"
        memory = f"{record['memory_bytes'] / 1e9:,.3g}"
        rows.append((f"`{record['name']}`", record["title"], record["kind"], rate, bandwidth, memory))
    return table.markdown(("device", "", "kind", "TFLOP/s", "GB/s", "GB"), rows)


def machine_list() -> str:
    """Every machine that maps ops in its own way, with its page."""
    rows = []
    for record in device_records():
        if record["name"] in MACHINES:
            name = record["name"]
            page = f"[`{name}`](machines/{name}.md)"
            memory = f"{record['memory_bytes'] / 1e9:,.3g}"
            rows.append((page, record["title"], record["kind"], memory, record["source"]))
    return table.markdown(("machine", "", "kind", "GB", "after"), rows)


def devices_compared(path: Path, picture: Path) -> str:
    """All devices under the same loads, as `twofold compare --json` stored them; writes the plot. Empty where
    nothing was stored."""
    if not path.exists():
        return ""
    found = device_comparison.DeviceComparison.model_validate_json(path.read_text(encoding="utf-8"))
    picture.write_text(device_comparison.plot(found), encoding="utf-8")
    return table.grid_to_markdown(device_comparison.grid(found))


def models() -> str:
    """Every architecture that is known without weights."""
    rows = []
    for name in model_names():
        spec = get_spec(name)
        active = spec.num_parameters(active_only=True)
        total = spec.num_parameters()
        size = f"{total / 1e9:.2f}" + (f" ({active / 1e9:.1f} active)" if active != total else "")
        rows.append((f"`{name}`", spec.family, size, spec.num_layers, spec.hidden, spec.max_context))
    return table.markdown(("model", "family", "10⁹ weights", "layers", "width", "context"), rows)


def ledger(picture: Path) -> str:
    """Every claim with our figure and the verdict, below a summary; draws both figures of each."""
    rows = build_ledger(all_claims())
    picture.write_text(claimed_against_ours(rows) + "\n", encoding="utf-8")
    return to_page(rows)


def api() -> str:
    """Every field of every request that the server takes, with what becomes of it, and then the parts of
    requests, each where it first comes up."""
    sections, seen = [], set()
    for path, request in reference.REQUESTS.items():
        heads = (f"`POST {path}`", "", "")
        sections.append(table.markdown(heads, reference.field_rows(request)))
        parts = [part for part in reference.parts(path) if part not in seen]
        seen.update(parts)
        if parts:
            rows = [
                ("" if number else reference.title(part), *row)
                for part in parts
                for number, row in enumerate(reference.field_rows(part))
            ]
            sections.append(table.markdown(("within it", "field", "", ""), rows))
    return "\n\n".join(sections)


def server_metrics() -> str:
    """Every metric that the server gives to Prometheus."""
    rows = [
        (f"`{metric.name}`", metric.kind, ", ".join(metric.labels), metric.help)
        for metric in metrics.describe()
    ]
    return table.markdown(("metric", "kind", "labels", ""), rows)


def matvec(tables: Sequence[MatvecTable]) -> str:
    """Matrix-vector products beside ggml's: time, stored weight bytes per second, ggml's time over ours."""
    heads = ["format", "rows × columns", "threads"]
    for state in ("in cache", "beyond"):
        heads += [f"{state}: µs", "ggml µs", "GB/s", "ratio"]
    parts = []
    for measured in tables:
        rows = [
            (hot.format.upper(), f"{hot.rows:,} × {hot.cols:,}", hot.threads, *_cells(hot), *_cells(cold))
            for hot, cold in measured.pairs()
        ]
        parts.append(f"{measured.caption()}.\n\n{table.markdown(heads, rows)}")
    return "\n\n".join(parts)


def _cells(row: MatvecRow) -> tuple[str, ...]:
    return f"{row.ours_us:,.1f}", f"{row.theirs_us:,.1f}", f"{row.ours_gb_s:.1f}", f"{row.ratio:.2f}"


def llamacpp(paths: Sequence[Path]) -> str:
    """Tokens per second beside llama.cpp's, one table per stored measurement, headed by its file's name."""
    parts = []
    for path in paths:
        heads, rows = beside_llamacpp(path)
        parts.append(f"`{path.stem}`\n\n{table.markdown(heads, rows)}")
    return "\n\n".join(parts)


def quality(path: Path) -> str:
    """What native kernels change; empty where nothing was measured."""
    if not path.exists():
        return ""
    parts = []
    for text, (heads, rows) in answers(path):
        parts.append(f"{text}." + (f"\n\n{table.markdown(heads, rows)}" if rows else ""))
    return "\n\n".join(parts)


def cpu_grid(path: Path) -> str:
    """Predictions for this processor beside measurements; empty where nothing was measured."""
    if not path.exists():
        return ""
    about, rows = grid_of_loads(path)
    return f"{about}.\n\n{table.markdown(*rows)}"


def genz(path: Path) -> str:
    """Requirements of use cases beside GenZ's."""
    return table.markdown(*beside_genz(path))


def accuracy(path: Path, *, held_out: bool = False) -> str:
    """Predictions beside measurements, as `twofold validate --json` stored them; empty where it did not.
    held_out: only the points that chose no parameter."""
    if not path.exists():
        return ""
    stored = Accuracy.model_validate_json(path.read_text(encoding="utf-8"))
    if held_out:
        rows = [row for row in stored.rows if not row.fitted]
        stored = stored.model_copy(update={"rows": rows})
    return table.grid_to_markdown(accuracy_grid(stored))


def comparison(path: Path, picture: Path) -> str:
    """Every table of a comparison, as `twofold compare --json` stored it; writes its first picture. Empty
    where nothing was stored."""
    if not path.exists():
        return ""
    found = Comparison.model_validate_json(path.read_text(encoding="utf-8"))
    drawn = {made.title: made.svg for made in pictures(found)}
    picture.write_text(drawn[PICTURE], encoding="utf-8")
    return f"{table.to_markdown(found)}\n\n{_where(found)}"


def glance(path: Path) -> str:
    """A stored comparison in one table; empty where nothing was stored or measured."""
    if not path.exists():
        return ""
    found = Comparison.model_validate_json(path.read_text(encoding="utf-8"))
    grid = glance_grid(found)
    text = "" if grid is None else table.grid_to_markdown(grid)
    return text and f"{table.heading(found)}\n\n{text}\n{_where(found)}"


def _where(found: Comparison) -> str:
    host = next(r.host for r in found.results)
    return (
        f"Measured on {host.processor} ({host.cores} cores) with Twofold {found.twofold_version}, "
        f"{found.created:%Y-%m-%d}; each row is the median of three plays."
    )
