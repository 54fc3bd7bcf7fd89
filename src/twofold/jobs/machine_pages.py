"""A page of the documentation for each machine: docs/machines/NAME.md, with a picture. Made by `make docs`.

What the machine is and where its figures come from, where time and energy go in its paper's setting, what the
paper claims and what comes out here, and which three figures move the result most.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from twofold.analysis.sensitivity import STEP, sensitivity
from twofold.claims.collect import machine_claims
from twofold.claims.ledger import Claims, build_ledger, to_grid
from twofold.devices.machine import Machine, numbers, sourced
from twofold.devices.registry import MACHINES, machine_class
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.report import table, units
from twofold.report.bars import Bar, Group, stacked
from twofold.report.schema import Result

_MOST = 3
"""Figures in the table of sensitivities."""
_CHAT: dict[str, Any] = {
    "model": "gpt2-small",
    "workload": {"requests": 4, "prompt": 128, "output": 64, "concurrency": 4},
}
"""What is shown of a machine without a setting of its own: a baseline."""


def write_pages(root: Path) -> list[Path]:
    """Write every machine's page and picture under `root`/docs/machines, and remove those of machines that
    are gone. Returns what is there."""
    folder = root / "docs" / "machines"
    folder.mkdir(exist_ok=True)
    written = []
    for name in MACHINES:
        print(f"machine {name}", file=sys.stderr)
        text, picture = page(name)
        for suffix, content in ((".md", text), (".svg", picture)):
            path = folder / f"{name}{suffix}"
            path.write_text(content, encoding="utf-8")
            written.append(path)
    for path in set(folder.iterdir()) - set(written):
        path.unlink()
    return written


def page(name: str) -> tuple[str, str]:
    """The page in Markdown, and its picture as SVG."""
    cls, setup = machine_class(name), _setup(name)
    shown = Plan.from_dict(getattr(setup, "SHOWN", _CHAT))
    result = predict_plan(shown, name)
    parts = [
        f"# {cls.title}",
        f"`{name}`, after {cls.source}. {cls.note[:1].upper()}{cls.note[1:]}.\n\n{_about(cls)}",
        f"## Where time and energy go\n\n{_setting(shown, result)}\n\n![Time and energy]({name}.svg)\n\n"
        f"{_spent_table(result)}",
    ]
    if claims := machine_claims(name):
        rows = build_ledger([Claims(name, "device", claims)])
        parts.append(f"## What its paper claims\n\n{table.grid_to_markdown(to_grid(rows))}")
    if setup is not None and hasattr(setup, "headline"):
        parts.append(f"## What moves the result most\n\n{_sensitivities(cls, setup)}")
    parts.append(f"## Figures\n\n{_figures(cls)}")
    return "\n\n".join(part.strip() for part in parts) + "\n", picture(result)


def picture(result: Result) -> str:
    """Shares of the time by kind of op and of the energy by part, as two bars."""
    seconds = {share.kind: share.seconds for share in result.breakdown}
    groups = [
        Group(f"time by op: {units.si(sum(seconds.values()), 's')}", [Bar("", _shares(seconds))]),
        Group(
            f"energy by part: {units.si(sum(result.joules_by_part.values()), 'J')}",
            [Bar("", _shares(result.joules_by_part))],
        ),
    ]
    return stacked(groups, "%", name=result.device, title="Time by kind of op, energy by part")


def _shares(spent: Mapping[str, float]) -> dict[str, float]:
    total = sum(spent.values()) or 1.0
    return {name: 100 * value / total for name, value in spent.items()}


def _setup(name: str) -> ModuleType | None:
    module = f"twofold.claims.setups.{name.replace('-', '_')}"
    return import_module(module) if find_spec(module) is not None else None


def _about(cls: type[Machine]) -> str:
    """What the machine's file says of it: paragraphs on one line each, lists as they are."""
    paragraphs = (sys.modules[cls.__module__].__doc__ or "").strip().split("\n\n")
    joined = [each if each.startswith("- ") else " ".join(each.split()) for each in paragraphs]
    return "\n\n".join(joined)


def _setting(plan: Plan, result: Result) -> str:
    load = result.workload
    techniques = ", ".join(f"`{use.name}`" for use in result.techniques)
    return (
        f"{plan.model}, {load.requests} requests of {load.prompt_tokens:.0f} tokens in and "
        f"{load.output_tokens:.0f} out, {load.concurrency or 'all'} at a time"
        + (f", with {techniques}" if techniques else "")
        + f": {units.figure(result.tokens_per_s)}, {units.figure(result.energy_per_token)}."
    )


def _spent_table(result: Result) -> str:
    rows = [
        (
            share.kind,
            units.seconds(share.seconds),
            units.percent(share.share),
            share.bound,
            units.si(share.joules or 0.0, "J"),
        )
        for share in result.breakdown
    ]
    total = sum(result.joules_by_part.values())
    by_part = [
        (part, units.si(joules, "J"), units.percent(joules / total))
        for part, joules in sorted(result.joules_by_part.items(), key=lambda item: -item[1])
    ]
    ops = table.markdown(("op", "time", "share", "bound by", "dynamic energy"), rows)
    return f"{ops}\n\n{table.markdown(('part', 'energy', 'share'), by_part)}"


def _sensitivities(cls: type[Machine], setup: ModuleType) -> str:
    middle, moved = sensitivity(cls, setup.headline)

    def cell(value: float | None) -> str:
        if value is None:
            return "cannot be built"
        return f"{value:.4g} ({units.signed_percent(value / middle - 1)})"

    rows = [(f"`{m.path}`", f"{m.value:.6g}", cell(m.lower), cell(m.higher)) for m in moved[:_MOST]]
    step = units.percent(STEP)
    heads = ("figure", "is", f"{step} lower", f"{step} higher")
    return f"{setup.HEADLINE}: {middle:.4g}.\n\n{table.markdown(heads, rows)}"


def _figures(cls: type[Machine]) -> str:
    found = numbers(cls.make().figures)
    sources = sourced(found, cls.sources)
    rows: Sequence[Sequence[object]] = [
        (f"`{path}`", f"{value:.6g}", sources[path]) for path, value in found.items()
    ]
    return table.markdown(("figure", "value (SI units)", "source"), rows)
