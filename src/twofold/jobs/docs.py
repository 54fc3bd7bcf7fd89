"""Rewrites what the documentation repeats of the code: `python -m twofold.jobs.docs`, run by `make docs`.

Between `<!-- begin NAME -->` and `<!-- end NAME -->` of README.md and docs/*.md stands what is made here: the
ledger, the tables of techniques, devices and models, and the measurements in docs/data, each of which is what
a command printed with `--json`. Nothing there is typed by hand; what nothing is stored for is left as it
stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from twofold.jobs import docs_sections as made
from twofold.jobs.machine_pages import write_pages
from twofold.report.matvec import MatvecTable

ROOT = Path(__file__).resolve().parents[3]


def rewrite(path: Path, makers: dict[str, Callable[[], str]]) -> bool:
    """Replace the marked sections of `path`, except by nothing; True where anything changed. ValueError for a
    section that nobody makes."""
    text = path.read_text(encoding="utf-8")

    def remade(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in makers:
            raise ValueError(
                f"{path}: nobody makes the section {name!r}; there are {', '.join(sorted(makers))}"
            )
        found = makers[name]().strip()
        return f"<!-- begin {name} -->\n{found}\n<!-- end {name} -->" if found else match.group(0)

    new = re.sub(r"<!-- begin ([\w-]+) -->.*?<!-- end \1 -->", remade, text, flags=re.S)
    if new == text:
        return False
    path.write_text(new, encoding="utf-8")
    return True


def sections(docs: Path) -> dict[str, Callable[[], str]]:
    """What makes each section, by its name. docs: the folder that pictures go to and measurements lie in."""
    data = docs / "data"
    return {
        "accuracy": lambda: made.accuracy(data / "validation.json"),
        "accuracy-held-out": lambda: made.accuracy(data / "validation.json", held_out=True),
        "api": made.api,
        "comparison": lambda: made.comparison(data / "comparison.json", docs / "comparison.svg"),
        "cpu-grid": lambda: made.cpu_grid(data / "cpu-grid.json"),
        "cpu-quality": lambda: made.quality(data / "quality.json"),
        "devices": made.devices,
        "devices-compared": lambda: made.devices_compared(data / "devices.json", docs / "devices.svg"),
        "genz": lambda: made.genz(data / "requirements-genz.json"),
        "glance": lambda: made.glance(data / "comparison.json"),
        "ledger": lambda: made.ledger(docs / "ledger.svg"),
        "llamacpp": lambda: made.llamacpp(sorted(data.glob("llamacpp*.json"))),
        "machines": made.machine_list,
        "matvec": lambda: made.matvec([MatvecTable.read(path) for path in sorted(data.glob("matvec*.json"))]),
        "metrics": made.server_metrics,
        "models": made.models,
        "pairs": made.pairs,
        "seams": made.seams,
        "techniques": made.techniques,
        "tradeoffs": lambda: made.comparison(data / "all-techniques.json", docs / "all-techniques.svg"),
    }


def main(root: Path = ROOT) -> None:
    """Rewrite README.md, docs/*.md and docs/machines under `root`."""
    write_pages(root)
    makers = sections(root / "docs")
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if rewrite(path, makers):
            print(f"rewrote {path.relative_to(root)}")


if __name__ == "__main__":
    main()
