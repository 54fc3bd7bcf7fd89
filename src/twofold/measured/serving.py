"""Measured serving points: TTFT and TPOT of a model behind serving software, by load.

A table is a CSV file `serving-*.csv` in the columns of the AIConfigurator project's `silicon_sample.csv`: one
row per point; `batch_size` is the number of requests that the load generator keeps going; times in
milliseconds are means over its requests, TTFT with their wait in the queue.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from twofold.errors import nearest

PATTERN = "serving-*.csv"
COLUMNS = (
    "id", "backend", "backend_version", "model_path", "system", "precision", "mode", "isl", "osl",
    "gemm_quant_mode", "moe_quant_mode", "batch_size", "tp_size", "pp_size", "moe_ep_size",
    "attention_dp_size", "silicon_ttft_ms", "silicon_tpot_ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServingPoint:
    """One row: who served what on what, the load, and the times in seconds.

    model: as the Hugging Face hub calls it; system: kind of machine, as the table calls it; products: how
    matrices are stored and multiplied, experts: how those of experts are ("" where the table does not say:
    unquantised); prompt, output: tokens of every request; concurrency: requests kept going.
    """

    id: str
    software: str
    version: str
    model: str
    system: str
    products: str
    experts: str
    prompt: int
    output: int
    concurrency: int
    tp: int
    pp: int
    ep: int
    dp: int
    ttft: float
    tpot: float


def find_serving(folder: Path) -> list[Path]:
    """The tables of serving points in `folder`, sorted."""
    return sorted(folder.glob(PATTERN))


def read_serving(path: Path) -> list[ServingPoint]:
    """The points of a table, without repeated rows. ValueError names the column or line that does not fit."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            given = [name.strip() for name in reader.fieldnames or ()]
            for name in COLUMNS:
                if name not in given:
                    raise ValueError(f"{path} has no column {name!r}; {nearest(name, given)}")
            points = []
            for line, row in enumerate(reader, start=2):
                try:
                    points.append(_point(row))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {line}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return list(dict.fromkeys(points))


def _point(row: dict[str, str]) -> ServingPoint:
    if row["mode"] != "agg":
        raise ValueError(f"mode is {row['mode']!r}; only 'agg', prompts and decodes on one server, is known")
    point = ServingPoint(
        id="_".join(row["id"].split("_")[:-1]) or row["id"],  # without the row's number
        software=row["backend"],
        version=row["backend_version"],
        model=row["model_path"],
        system=row["system"],
        products=row["gemm_quant_mode"] or row["precision"],
        experts=row["moe_quant_mode"] or row["precision"],
        prompt=_whole(row, "isl"),
        output=_whole(row, "osl"),
        concurrency=_whole(row, "batch_size"),
        tp=_whole(row, "tp_size", 1),
        pp=_whole(row, "pp_size", 1),
        ep=_whole(row, "moe_ep_size", 1),
        dp=_whole(row, "attention_dp_size", 1),
        ttft=float(row["silicon_ttft_ms"]) / 1e3,
        tpot=float(row["silicon_tpot_ms"]) / 1e3,
    )
    if not (point.ttft > 0 and point.tpot > 0):
        raise ValueError(f"times must be positive, not {row['silicon_ttft_ms']} and {row['silicon_tpot_ms']}")
    return point


def _whole(row: dict[str, str], name: str, default: int | None = None) -> int:
    """A count; blank and 0 mean `default` where there is one."""
    number = float(row[name]) if row[name] else 0.0
    if not number and default is not None:
        return default
    if number < 1 or number != int(number):
        raise ValueError(f"{name} is {row[name]!r}; it must be a positive whole number")
    return int(number)
