"""`compare` over devices: speed and energy of each under the plan's load, for several models and numbers of
requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.cli import output, read
from twofold.cli.errors import complain

if TYPE_CHECKING:
    from twofold.plan import Plan


def only_known(model: str) -> bool:
    """Whether of `model` only the architecture is known, so that nothing can be run. ValueError for a model
    that is not known at all."""
    from twofold.models.find import find_spec
    from twofold.models.locate import is_path
    from twofold.models.registry import registered_names

    if is_path(model) or model in registered_names():
        return False
    find_spec(model)
    return True


def compare_on(
    plan: Plan,
    devices: Sequence[str],
    models: str | None,
    batches: str | None,
    *,
    json: bool,
    html: Path | None,
) -> None:
    """Print what `plan` would do on each of `devices`, and write the report to `html`. models, batches: as
    given, with commas; the plan's own by default."""
    from twofold.jobs.compare_devices import compare_devices
    from twofold.report import device_comparison, page

    names = read.names(models) if models else [plan.model]
    sizes = read.whole_numbers(batches) if batches else [plan.workload.concurrency or 1]
    with output.progress_bar() as progress:
        found = compare_devices(plan, devices, names, sizes, progress)
    if json:
        output.show_json(found.model_dump(mode="json"))
    else:
        output.show(device_comparison.render_terminal(found))
    if html is not None:
        grids, drawn = [device_comparison.grid(found)], device_comparison.pictures(found)
        page.write(html, found.title, "predicted; no device was run", grids, drawn)
        complain(str(html.resolve()), "report")
