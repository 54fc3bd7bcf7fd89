"""How plots look: one style, and SVG that takes its colours from the page it stands in, light or dark."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe & Ito's palette, which stays distinct for colour-blind readers ("Color Universal Design", 2008),
# without its yellow, which is too pale on white. The page sets `--c0` … to lighter variants on a dark
# background.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Stand-ins that `to_svg` replaces by what the page defines.
INK, RULE, PAPER = "#010203", "#040506", "#070809"
WIDTH = 5.2  # inches; small enough that the text stays readable when a plot is scaled to a phone
FONT = 9.5  # points
SMALL = FONT - 1
_LONGEST = 64
"""Characters of a label in the small font that fit beside each other."""

_REPLACED = {INK: "currentColor", RULE: "var(--rule, #d0d0d0)", PAPER: "var(--paper, #ffffff)"} | {
    colour: f"var(--c{i}, {colour})" for i, colour in enumerate(COLOURS)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twofold",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": FONT,
    "legend.fontsize": FONT - 0.5,
    "xtick.labelsize": FONT - 0.5,
    "ytick.labelsize": FONT - 0.5,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}
_LOCK = threading.Lock()  # matplotlib's style is global to the process


@contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[tuple[Figure, Any]]:
    """A figure (inches) with one set of axes in the common style, to be turned into SVG before the context
    ends."""
    with _LOCK, mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


@contextmanager
def drawing_panels(
    rows: int, columns: int, width: float, height: float
) -> Iterator[tuple[Figure, list[Any]]]:
    """As `drawing`, with `rows` × `columns` sets of axes, read row by row."""
    with _LOCK, mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def legend(figure: Figure, axes: Any, columns: int = 4) -> None:
    """A legend above the axes, read row by row."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    # matplotlib fills columns from top to bottom.
    entries = [entry for column in range(columns) for entry in entries[column::columns]]
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        handlelength=1.2,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.0,
    )


def shortened(label: str) -> str:
    """A label that fits the width of a plot: what is too long ends in "…"."""
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1].rstrip(" ,(+") + "…"


def label_points(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each label beside its point (data coordinates) where it covers no other label or point and stays
    in the axes.

    The figure must have its final limits and scales.
    """
    axes.figure.draw_without_rendering()
    frame = axes.get_window_extent()
    scale = axes.figure.dpi / 72
    size = SMALL
    places = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(px - 5 * scale, py - 5 * scale, px + 5 * scale, py + 5 * scale) for px, py in places]
    for (px, py), (x, y, text) in zip(places, points, strict=True):
        w, h = 0.56 * size * len(text) * scale, 1.15 * size * scale
        best = (float("inf"), 0.0, 0.0)
        for step, (dx, dy) in enumerate(_offsets(w, h, scale)):
            box = (px + dx, py + dy - h / 2, px + dx + w, py + dy + h / 2)
            outside = max(0.0, frame.x0 - box[0]) + max(0.0, box[2] - frame.x1 - 4 * scale)
            outside += max(0.0, frame.y0 - box[1]) + max(0.0, box[3] - frame.y1)
            covered = sum(_overlap(box, other) for other in taken)
            best = min(best, (outside * h + covered + step * 1e-3, dx, dy))
        _, dx, dy = best
        taken.append((px + dx, py + dy - h / 2, px + dx + w, py + dy + h / 2))
        far = abs(dy) > 12 * scale
        axes.annotate(
            text,
            (x, y),
            xytext=(dx / scale, dy / scale),
            textcoords="offset points",
            fontsize=size,
            va="center",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.3, "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "color": RULE, "lw": 0.8, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )


def _offsets(w: float, h: float, scale: float) -> Iterator[tuple[float, float]]:
    """Where a label (w × h) may start, seen from its point: right, left, then further and further up and
    down."""
    gap = 7 * scale
    for rise in (0.0, 0.9 * h, -0.9 * h, 1.8 * h, -1.8 * h, 2.7 * h, -2.7 * h, 3.6 * h, -3.6 * h):
        yield gap, rise
        yield -gap - w, rise
        if rise:
            yield -w / 2, rise


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Common area of two boxes (x0, y0, x1, y1)."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def to_svg(figure: Figure, name: str, description: str) -> str:
    """`figure` as an inline `<svg>` element with `description` as its text alternative.

    name: unique on the page; prefixes every id inside, since matplotlib repeats them between figures.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    for colour, wanted in _REPLACED.items():
        text = re.sub(colour, wanted, text, flags=re.IGNORECASE)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*pt"', "", head)
    return (
        f'{head} role="img" aria-labelledby="{name}-alt">'
        f'<desc id="{name}-alt">{escape(description)}</desc>{rest.strip()}'
    )
