"""Rewrites what the documentation repeats of the code: `python -m twofold.jobs.docs`, run by `make docs`.

Between `<!-- begin NAME -->` and `<!-- end NAME -->` of README.md and docs/*.md stands what is made here: the
newest stored comparison, the ledger, the tables of techniques, devices and models, and the measurements in
docs/data. Nothing there is typed by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from twofold.claims.collect import all_claims
from twofold.claims.ledger import build_ledger, to_markdown
from twofold.devices import catalog
from twofold.devices.listing import device_records
from twofold.devices.registry import MACHINES
from twofold.jobs.machine_pages import write_pages
from twofold.models.catalog import get_spec, model_names
from twofold.report import device_comparison, table
from twofold.report.accuracy import Accuracy
from twofold.report.accuracy import grid as accuracy_grid
from twofold.report.comparison import Comparison
from twofold.report.cpu_tables import answers, beside_llamacpp, grid_of_loads
from twofold.report.matvec import MatvecRow, MatvecTable
from twofold.report.pictures import pictures
from twofold.report.store import Store
from twofold.report.tool_tables import beside_genz
from twofold.server import metrics, reference
from twofold.techniques.pairs import all_pairs
from twofold.techniques.registry import technique_class, technique_names

ROOT = Path(__file__).resolve().parents[3]
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


def pairs() -> str:
    """Every pair of techniques: runs, or why not."""
    rows = [(f"`{p.first}` + `{p.second}`", "runs" if p.allowed else p.reason) for p in all_pairs()]
    return table.markdown(("pair", ""), rows)


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


def ledger() -> str:
    """Every claim with our figure and the verdict."""
    return to_markdown(build_ledger(all_claims()))


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


def accuracy(path: Path) -> str:
    """Predictions beside measurements, as `twofold validate --json` stored them; empty where it did not."""
    if not path.exists():
        return ""
    stored = Accuracy.model_validate_json(path.read_text(encoding="utf-8"))
    return table.grid_to_markdown(accuracy_grid(stored))


def newest_comparison() -> Comparison | None:
    """The comparison that was stored last, or None."""
    found = [s for s in Store().find(limit=500) if s.comparison is not None]
    return (
        Store().get_comparison(max(s.comparison for s in found if s.comparison is not None))
        if found
        else None
    )


def comparison(found: Comparison) -> str:
    """The newest comparison as tables, with the machine that it was measured on."""
    host = next(r.host for r in found.results)
    text = table.to_markdown(found)
    return (
        f"{text}\n\nMeasured on {host.processor} ({host.cores} cores) with `make demo`; "
        "each row is the median of three plays."
    )


def rewrite(path: Path, sections: dict[str, Callable[[], str]]) -> bool:
    """Replace the marked sections of `path`; True where anything changed. ValueError for a section that
    nobody makes."""
    text = path.read_text(encoding="utf-8")

    def made(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in sections:
            raise ValueError(
                f"{path}: nobody makes the section {name!r}; there are {', '.join(sorted(sections))}"
            )
        return f"<!-- begin {name} -->\n{sections[name]().strip()}\n<!-- end {name} -->"

    new = re.sub(r"<!-- begin ([\w-]+) -->.*?<!-- end \1 -->", made, text, flags=re.S)
    if new == text:
        return False
    path.write_text(new, encoding="utf-8")
    return True


def main(root: Path = ROOT) -> None:
    """Rewrite README.md, docs/*.md and docs/machines under `root`."""
    sections: dict[str, Callable[[], str]] = {
        "techniques": techniques,
        "pairs": pairs,
        "devices": devices,
        "models": models,
        "ledger": ledger,
        "api": api,
        "metrics": server_metrics,
    }
    stored = [MatvecTable.read(path) for path in sorted((root / "docs" / "data").glob("matvec*.json"))]
    accuracy_page = root / "docs" / "accuracy.md"
    page, data = root / "docs" / "cpu.md", root / "docs" / "data"
    sections["matvec"] = lambda: matvec(stored) if stored else _kept(page, "matvec")
    sections["llamacpp"] = lambda: llamacpp(sorted(data.glob("llamacpp*.json"))) or _kept(page, "llamacpp")
    sections["cpu-quality"] = lambda: quality(data / "quality.json") or _kept(page, "cpu-quality")
    sections["genz"] = lambda: table.markdown(*beside_genz(data / "requirements-genz.json"))
    sections["cpu-grid"] = lambda: cpu_grid(data / "cpu-grid.json") or _kept(accuracy_page, "cpu-grid")
    stored_accuracy = data / "validation.json"
    sections["accuracy"] = lambda: accuracy(stored_accuracy) or _kept(root / "README.md", "accuracy")
    newest = newest_comparison()
    if newest is None:
        print(
            "no comparison is stored: run `make demo` first; its table is left as it stands", file=sys.stderr
        )
        sections["comparison"] = lambda: _kept(root / "README.md", "comparison")
    else:
        sections["comparison"] = lambda: comparison(newest)
        for picture in pictures(newest):
            if picture.title == PICTURE:
                (root / "docs" / "comparison.svg").write_text(picture.svg, encoding="utf-8")
    write_pages(root)
    machine_page = root / "docs" / "machines.md"
    sections["machines"] = machine_list
    sections["devices-compared"] = lambda: (
        devices_compared(data / "devices.json", root / "docs" / "devices.svg")
        or _kept(machine_page, "devices-compared")
    )
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if rewrite(path, sections):
            print(f"rewrote {path.relative_to(root)}")


def _kept(path: Path, name: str) -> str:
    found = re.search(
        rf"<!-- begin {name} -->\n(.*?)\n<!-- end {name} -->", path.read_text(encoding="utf-8"), re.S
    )
    return found.group(1) if found else ""


if __name__ == "__main__":
    main()
