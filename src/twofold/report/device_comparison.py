"""One plan on many devices, for several models and numbers of requests at once: a table, and a plot of speed
against energy."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pydantic import Field
from rich.console import Group, RenderableType

from twofold.report import units
from twofold.report.grid import Column, Grid, Line
from twofold.report.pictures import Picture
from twofold.report.schema import Confidence, Figure, Record
from twofold.report.svg import COLOURS, INK, MARKERS, drawing_panels, label_points, to_svg
from twofold.report.table import render_grid

GPUS, CPUS, MACHINES = "GPU, TPU", "CPU", "other machines"
_FAMILIES = {"gpu": GPUS, "tpu": GPUS, "cpu": CPUS, "laptop": CPUS, "phone": CPUS}
_MARKED = ("h100-sxm", "this-cpu")
"""GPUs and CPUs that are named in the plot: what everybody knows, and what everybody has here."""


class Load(NamedTuple):
    """What is asked of a device: a model, and how many requests at once."""

    model: str
    batch: int


class Outcome(Record):
    """A device under a load. devices: how many of them share the model, the fewest that hold it; weight_bits:
    to which the weights had to be packed (0: they were not); refused: why it cannot take the load at all (no
    figures then)."""

    device: str
    kind: str
    model: str
    batch: int
    devices: int = 1
    weight_bits: int = 0
    tokens_per_s: Figure | None = None
    joules_per_token: Figure | None = None
    ttft: Figure | None = None
    confidence: Confidence | None = None
    refused: str = ""


class DeviceComparison(Record):
    """All outcomes, by device in the order of the table. workload: tokens in and out, in words."""

    schema_version: int = 1
    workload: str
    techniques: list[str] = Field(default_factory=list)
    outcomes: list[Outcome]

    @property
    def loads(self) -> list[Load]:
        """Every load, in the order asked for."""
        return list(dict.fromkeys(Load(o.model, o.batch) for o in self.outcomes))

    @property
    def title(self) -> str:
        """What was compared."""
        on = f" with {' + '.join(self.techniques)}" if self.techniques else ""
        return f"Devices compared{on}: {self.workload}"

    def at(self, load: Load) -> list[Outcome]:
        """The devices' outcomes under a load."""
        return [o for o in self.outcomes if (o.model, o.batch) == load]


def grid(found: DeviceComparison) -> Grid:
    """One line per device, one column per load."""
    loads = found.loads
    columns = [Column("device", align="left"), Column("kind", align="left")]
    columns += [Column(f"{load.model} x {load.batch}", "token/s · J/token") for load in loads]
    by_device: dict[str, dict[Load, Outcome]] = {}
    for outcome in found.outcomes:
        by_device.setdefault(outcome.device, {})[Load(outcome.model, outcome.batch)] = outcome
    lines, reasons = [], []
    for device, of in by_device.items():
        cells = [_cell(of[load]) for load in loads]
        lines.append(Line((device, next(iter(of.values())).kind, *cells)))
        refused = {o.model: o.refused for o in of.values() if o.refused}
        reasons += [f"{device}: {why}" for why in refused.values()]
    notes = [
        "(n×): so many share the model by tensor parallelism, the fewest that hold it; "
        "(n bit): weights packed for want of memory"
    ]
    return Grid(found.title, tuple(columns), tuple(lines), (*notes, *reasons))


def _cell(outcome: Outcome) -> str:
    if outcome.tokens_per_s is None or outcome.joules_per_token is None:
        return units.UNKNOWN
    marks = [f"{outcome.devices}×"] if outcome.devices > 1 else []
    if outcome.weight_bits:
        marks.append(f"{outcome.weight_bits} bit")
    speed, joules = outcome.tokens_per_s.mid, outcome.joules_per_token.mid
    return f"{units.digits(speed)} · {units.digits(joules)}" + (f" ({', '.join(marks)})" if marks else "")


def render_terminal(found: DeviceComparison) -> RenderableType:
    """The table for a rich console."""
    return Group(render_grid(grid(found)))


def pictures(found: DeviceComparison) -> list[Picture]:
    """The one plot there is, unless every device refused."""
    if not any(o.tokens_per_s for o in found.outcomes):
        return []
    return [
        Picture(
            "Speed against energy",
            "Tokens per second over joules per token, both logarithmic, one panel per model and number of "
            "requests at once: up is faster, left takes less energy. Every device that holds the model is "
            "there, as few of it as hold it; machines are named, of GPUs and CPUs those that stand for the "
            "others.",
            plot(found),
        )
    ]


def plot(found: DeviceComparison) -> str:
    """Panels by model (columns) and batch (rows) as one SVG."""
    models = list(dict.fromkeys(load.model for load in found.loads))
    batches = list(dict.fromkeys(load.batch for load in found.loads))
    width, height = 4.6 * len(models), 4.2 * len(batches) + 0.3
    with drawing_panels(len(batches), len(models), width, height) as (figure, panels):
        for number, axes in enumerate(panels):
            load = Load(models[number % len(models)], batches[number // len(models)])
            _panel(axes, load, found.at(load))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        for axes, points in zip(panels, _named(found, models, batches), strict=True):
            label_points(axes, points)
        return to_svg(figure, "devices", "Tokens per second over joules per token")


def _named(
    found: DeviceComparison, models: list[str], batches: list[int]
) -> list[list[tuple[float, float, str]]]:
    """The named points of each panel."""
    named = []
    for batch in batches:
        for model in models:
            points = []
            for o in found.at(Load(model, batch)):
                place = _place(o)
                if place is not None and (_family(o) == MACHINES or o.device in _MARKED):
                    points.append((*place, o.device))
            named.append(points)
    return named


def _panel(axes: Any, load: Load, outcomes: list[Outcome]) -> None:
    for index, family in enumerate((GPUS, CPUS, MACHINES)):
        points = [p for o in outcomes if _family(o) == family and (p := _place(o)) is not None]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            s=30,
            color=COLOURS[index],
            marker=MARKERS[index],
            label=family,
            alpha=0.9 if family == MACHINES else 0.45,
            linewidths=0,
            zorder=3,
        )
    axes.set(xscale="log", yscale="log", xlabel="J/token", ylabel="token/s")
    axes.set_title(f"{load.model}, {load.batch} at once", color=INK, loc="left")
    axes.margins(0.16)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _family(outcome: Outcome) -> str:
    return _FAMILIES.get(outcome.kind, MACHINES)


def _place(outcome: Outcome) -> tuple[float, float] | None:
    if outcome.tokens_per_s is None or outcome.joules_per_token is None:
        return None
    x, y = outcome.joules_per_token.mid, outcome.tokens_per_s.mid
    return (x, y) if x > 0 and y > 0 else None
