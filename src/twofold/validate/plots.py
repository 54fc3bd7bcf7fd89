"""Plots of a validation: measured against predicted, and how the errors are spread; one panel per group and
quantity."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from twofold.report.svg import COLOURS, INK, RULE, SMALL, drawing_panels, to_svg
from twofold.validate.sample import Sample

_COLUMNS = 3
_BAND = 0.1
_EDGE = 0.5  # errors beyond are drawn at the edge of a histogram
_KEPT = 600  # points drawn per panel and colour; more only cover each other
_WORDS = {"held out": COLOURS[0], "fitted": COLOURS[1]}

Panel = tuple[str, str, list[Sample]]


def write_plots(samples: Sequence[Sample], titles: Mapping[str, str], folder: Path) -> list[Path]:
    """Write `measured-predicted.svg` and `errors.svg` to `folder`; returns the paths. ValueError where the
    folder cannot be written, or there is nothing to draw."""
    found = panels(samples, titles)
    if not found:
        raise ValueError("no measurement was compared with a prediction: there is nothing to draw")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in (("measured-predicted", agreement), ("errors", histograms)):
            path = folder / f"{name}.svg"
            path.write_text(draw(found), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise ValueError(f"cannot write plots to {folder}: {error.strerror}") from None
    return written


def panels(samples: Sequence[Sample], titles: Mapping[str, str]) -> list[Panel]:
    """(title, quantity, samples) of every group and quantity, in order of appearance."""
    parts: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        parts.setdefault((sample.group, sample.quantity), []).append(sample)
    return [(titles.get(group, group), quantity, found) for (group, quantity), found in parts.items()]


def agreement(found: Sequence[Panel]) -> str:
    """Predicted over measured on logarithmic axes, with the line of equality and a band of 10 %."""
    return _draw(found, "measured-predicted", "Predicted against measured", _scatter)


def histograms(found: Sequence[Panel]) -> str:
    """How the relative errors are spread; what is beyond ±50 % stands at the edge."""
    return _draw(found, "errors", "Relative errors of the predictions", _histogram)


def _draw(
    found: Sequence[Panel], name: str, title: str, paint: Callable[[Any, str, list[Sample]], None]
) -> str:
    columns = min(_COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    with drawing_panels(rows, columns, 2.9 * columns, 2.8 * rows + 0.3) as (figure, axes):
        for place, panel in zip(axes, found, strict=False):
            heading, quantity, samples = panel
            place.set_title(f"{textwrap.fill(heading, 34)}\n{quantity}", fontsize=SMALL, loc="left")
            paint(place, quantity, samples)
        for place in axes[len(found) :]:
            place.set_axis_off()
        entries = {
            word: handle
            for place in axes
            for handle, word in zip(*place.get_legend_handles_labels(), strict=True)
        }
        figure.legend(entries.values(), entries.keys(), loc="outside upper left", ncols=3, frameon=False)
        told = "; ".join(_told(*panel) for panel in found)
        return to_svg(figure, name, f"{title}. {told}")


def _told(heading: str, quantity: str, samples: Sequence[Sample]) -> str:
    error = float(np.mean([abs(sample.error) for sample in samples]))
    return f"{heading}, {quantity}: {len(samples)} points, mean absolute error {error * 100:.1f} %"


def _sides(samples: Sequence[Sample]) -> Iterator[tuple[str, str, list[Sample]]]:
    for word, colour in _WORDS.items():
        ours = [sample for sample in samples if sample.fitted == (word == "fitted")]
        if ours:
            yield word, colour, ours


def _scatter(axes: Any, quantity: str, samples: list[Sample]) -> None:
    values = [value for s in samples for value in (s.measured, s.predicted)]
    low, high = min(values) / 1.4, max(values) * 1.4
    axes.fill_between(
        [low, high],
        [low * (1 - _BAND), high * (1 - _BAND)],
        [low * (1 + _BAND), high * (1 + _BAND)],
        color=RULE,
        alpha=0.6,
        lw=0,
        label=f"within ±{_BAND * 100:.0f} %",
    )
    axes.plot([low, high], [low, high], color=INK, lw=0.8)
    for word, colour, ours in _sides(samples):
        shown = ours[:: max(1, len(ours) // _KEPT)]
        xs, ys = [s.measured for s in shown], [s.predicted for s in shown]
        axes.scatter(
            xs, ys, s=20 if len(samples) < 100 else 7, color=colour, alpha=0.7, lw=0, label=word, zorder=3
        )
    axes.set(
        xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="measured", ylabel="predicted"
    )
    unit = samples[0].unit
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(_ticks(low, high)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, unit)))
        axis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=SMALL - 1)
    axes.set_xlabel(f"measured{'' if unit == 's' else ', ' + unit}")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high`, at most five: decades where there are several."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0,) if last - first > 3 else (1.0, 3.0) if high / low > 10 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    found = [s * 10.0**e for e in range(first, last + 1) for s in steps if low <= s * 10.0**e <= high]
    return found[:: math.ceil(len(found) / 5)]


def _tick(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:g}"
    scale, name = next(((s, n) for s, n in ((1.0, "s"), (1e-3, "ms")) if value >= s), (1e-6, "µs"))
    return f"{value / scale:.3g} {name}"


def _histogram(axes: Any, quantity: str, samples: list[Sample]) -> None:
    edges = np.linspace(-_EDGE, _EDGE, 41)
    sides = list(_sides(samples))
    errors = [np.clip([s.error for s in ours], -_EDGE, _EDGE) for _, _, ours in sides]
    axes.hist(
        errors, bins=edges, stacked=True, color=[c for _, c, _ in sides], label=[w for w, _, _ in sides]
    )
    axes.axvline(0, color=INK, lw=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:+.0f} %" if value else "0"))
    axes.set(xlabel="predicted / measured − 1", ylabel="points", xlim=(-_EDGE, _EDGE))
    axes.tick_params(labelsize=SMALL - 1)
