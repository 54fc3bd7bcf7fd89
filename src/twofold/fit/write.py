"""Writing fitted parameters into a generation's file, with where they come from; everything else stays as it
is."""

from __future__ import annotations

import re
from datetime import date
from importlib import resources
from pathlib import Path

import yaml

from twofold.devices.schema import Generation
from twofold.fit.fit import Fit
from twofold.fit.parameters import PARAMETERS, STAGES

SOURCES = {stage.name: re.sub(r"\W+", "-", f"fit {stage.name}") for stage in STAGES}
"""Key of each stage's source in a generation's file."""
_LINE = re.compile(r"( *)([\w-]+):(.*)")


def generation_text(name: str) -> str:
    """The file of a generation as it is in the package."""
    folder = resources.files("twofold.devices") / "catalog" / "generations"
    return (folder / f"{name}.yaml").read_text(encoding="utf-8")


def updated(text: str, fit: Fit, when: date) -> str:
    """The generation's file `text` with the fitted values and one source per stage. ValueError where a fitted
    parameter has no line of its own."""
    source_of = {p.path: SOURCES[s.name] for s in STAGES for p in s.parameters}
    missing = set(fit.after)
    lines, path = [], [""]
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None and not line.lstrip().startswith("#"):
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            place = ".".join(path[1:])
            if path[0] == "efficiency" and place in fit.after:
                figure = f"{{value: {PARAMETERS[place].write(fit.after[place])}, source: {source_of[place]}}}"
                line = f"{match[1]}{match[2]}: {figure}"
                missing.discard(place)
        lines.append(line)
    if missing:
        raise ValueError(f"generation {fit.generation!r} has no line for {', '.join(sorted(missing))}")
    return _with_sources("\n".join(lines) + "\n", fit, when)


def _with_sources(text: str, fit: Fit, when: date) -> str:
    """`text` with the sources of the fitted stages, and without sources that nothing names any more."""
    for stage in fit.by_stage:
        key = SOURCES[stage]
        entry = f'  {key}: "{provenance(fit, stage, when)}"\n'
        text = re.sub(rf"^  {re.escape(key)}: .*\n", "", text, count=1, flags=re.M)
        text = text.replace("sources:\n", f"sources:\n{entry}", 1)
    for key in yaml.safe_load(text)["sources"]:
        if not re.search(rf"source: {re.escape(key)}\b(?!-)", text):
            text = re.sub(rf"^  {re.escape(key)}: .*\n", "", text, count=1, flags=re.M)
    Generation(**yaml.safe_load(text))
    return text


def provenance(fit: Fit, stage: str, when: date) -> str:
    """Which tables, how many points, and the error at fitted and at held-out points."""
    parts = []
    for row in fit.by_stage[stage]:
        fitted = "" if row.fitted is None else f"{row.fitted.points} points, MAPE {row.fitted.mape:.1%}"
        held = "" if row.held_out is None else f", held out {row.held_out.mape:.1%}"
        parts.append(f"{row.source} ({fitted}{held})")
    return f"twofold fit, {when.isoformat()}: {'; '.join(parts)}"


def write(fit: Fit, folder: Path | None = None, when: date | None = None) -> Path:
    """Write the generation's file, in the package or in `folder`; its path. OSError where that cannot be."""
    text = updated(generation_text(fit.generation), fit, when or date.today())
    if folder is None:
        folder = Path(str(resources.files("twofold.devices"))) / "catalog" / "generations"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{fit.generation}.yaml"
    path.write_text(text, encoding="utf-8")
    return path
