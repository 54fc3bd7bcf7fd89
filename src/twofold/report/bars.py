"""Stacked bars: memory by part, time by kind of op; measured and predicted one above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import FuncFormatter, MaxNLocator

from twofold.report import units
from twofold.report.svg import COLOURS, INK, PAPER, SMALL, drawing, legend, shortened, to_svg

_KEPT = 7  # kinds of op that keep a colour of their own; the smallest of the others are summed as "other"


class Bar(NamedTuple):
    """One stacked bar: text in front of it (may be empty), and its parts by name. `faint` for a
    prediction."""

    caption: str
    parts: Mapping[str, float]
    faint: bool = False


class Group(NamedTuple):
    """Bars that belong together, under one label."""

    label: str
    bars: Sequence[Bar]


def stacked(groups: Sequence[Group], unit: str, *, name: str, title: str, limit: float | None = None) -> str:
    """Horizontal stacked bars in groups, every group under its own label so that long labels need no margin.

    unit: SI unit of the values ("s", "B"). limit: drawn as a vertical line if it is near the bars, such as a
    capacity.
    """
    parts = _shared_parts(groups)
    thick, gap = 0.19, 0.36  # inches
    count = sum(len(g.bars) for g in groups)
    with drawing(0.9 + thick * 1.15 * count + gap * len(groups)) as (figure, axes):
        longest = max((sum(b.parts.values()) for g in groups for b in g.bars), default=1.0) or 1.0
        at, shown = 0.0, set()
        for group in groups:
            axes.text(
                0,
                at + gap - thick * 0.62,
                shortened(group.label),
                va="bottom",
                ha="left",
                fontsize=SMALL,
                color=INK,
                transform=axes.transData,
            )
            at += gap
            for bar in group.bars:
                left = 0.0
                for index, part in enumerate(parts):
                    value = _part(bar, part, parts)
                    if value <= 0:
                        continue
                    if bar.faint:  # the grid must not shine through
                        axes.barh(at, value, height=thick, left=left, color=PAPER, linewidth=0, label="_")
                    axes.barh(
                        at,
                        value,
                        height=thick,
                        left=left,
                        color=COLOURS[index % len(COLOURS)],
                        linewidth=0.6,
                        edgecolor=PAPER,
                        alpha=0.6 if bar.faint else 1.0,
                        label="_" if part in shown else part,
                    )
                    shown.add(part)
                    left += value
                text = units.si(left, unit) + (f" {bar.caption}" if bar.caption else "")
                axes.annotate(
                    text, (left, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL
                )
                at += thick * 1.15
        widest = longest * 1.3
        if limit is not None and limit < longest * 3:
            axes.axvline(limit, color=INK, lw=1, ls="--", label=f"capacity {units.si(limit, unit)}")
            widest = max(widest, limit * 1.05)
        axes.set(xlim=(0, widest), ylim=(at, 0.05), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.si(value, unit)))
        legend(figure, axes)
        told = "; ".join(
            f"{g.label} {b.caption}: {units.si(sum(b.parts.values()), unit)}" for g in groups for b in g.bars
        )
        return to_svg(figure, name, f"{title}. {told}")


def _shared_parts(groups: Sequence[Group]) -> list[str]:
    """Names of the parts in order of appearance; the smallest beyond `_KEPT` are left to "other"."""
    totals: dict[str, float] = {}
    for group in groups:
        for bar in group.bars:
            for part, value in bar.parts.items():
                totals[part] = totals.get(part, 0.0) + value
    if len(totals) <= _KEPT + 1:
        return list(totals)
    largest = sorted((p for p in totals if p != "other"), key=lambda p: -totals[p])[:_KEPT]
    return [p for p in totals if p in largest] + ["other"]


def _part(bar: Bar, part: str, parts: Sequence[str]) -> float:
    """The value of `part`; "other" also has what is not in `parts`."""
    value = bar.parts.get(part, 0.0)
    return value + sum(v for k, v in bar.parts.items() if k not in parts) if part == "other" else value
