"""Times of collectives on many GPUs against the catalogue, and the section `collective` refitted.

Usage: python benchmarks/collective_efficiency.py [--fit]

Reads the tables of the package aiconfigurator-core (NVIDIA, Apache-2.0), which must be installed beside
pyarrow: NCCL's collectives, and the all-reduce of vLLM, SGLang and TensorRT-LLM, which takes a kernel of its
own where messages are small. Sizes in those tables count elements of two bytes; those of all-gather count
what every device ends with.

Parameters are fitted on every other size on one node of each generation; the other nodes are held out. What
NCCL does is compared without the kernels over peers, what serving software does with them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import pyarrow.parquet as pq
from operator_tables import data_folder, line, newest, search, show

from twofold.devices.catalog import get_device
from twofold.devices.efficiency.collective import CollectiveEfficiency
from twofold.devices.links import Link, all_gather, all_reduce, all_to_all, reduce_scatter
from twofold.devices.schema import DeviceFile

GPUS = {
    "a100_sxm": "a100-80g-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "l40s": "l40s",
}
FITTED = {
    "ampere": ("a100_sxm", "vllm", 8),
    "hopper": ("h100_sxm", "vllm", 8),
    "blackwell": ("b200_sxm", "trtllm", 8),
    "ada": ("l40s", "vllm", 2),
}
"""By generation: the node, whose kernels over peers, and up to how many GPUs. Between more than two cards on
PCIe the sockets and switches of that server decide, which no datasheet of a card knows."""
SOFTWARE = ("vllm", "sglang", "trtllm")
NCCL_FREE = ("start", "step", "blocks", "share", "switch.start", "switch.share")
PEERS_FREE = ("peers.start", "peers.share")
CEILINGS = {"share": 1.0, "switch.share": 1.0, "peers.share": 1.0}
ELEMENT = 2


class Point(NamedTuple):
    """A collective of `nbytes` (per device; of all-gather, what each contributes) among `n` GPUs."""

    kind: str
    n: int
    nbytes: float
    seconds: float


def read_points(folder: Path) -> Iterator[Point]:
    """Messages of 16-bit elements; kernels launched one by one instead of from a graph are left out."""
    name = "nccl" if folder.parent.name == "nccl" else "custom_allreduce"
    for row in pq.read_table(folder / f"{name}_perf.parquet").to_pylist():
        if row.get("nccl_dtype") == "int8" or "eager" in row["kernel_source"]:
            continue
        kind, n, nbytes = row["op_name"], row["num_gpus"], float(row["message_size"] * ELEMENT)
        yield Point(kind, n, nbytes / n if kind == "all_gather" else nbytes, row["latency"] * 1e-3)


def link_of(file: DeviceFile, section: CollectiveEfficiency, *, peers: bool) -> Link:
    """The link within a node of `file`'s devices, with or without the kernels over peers."""
    assert file.link is not None
    link = section.within(file.link.bandwidth.value, file.link.latency.value, direct=file.link.direct)
    return link if peers else replace(link, peers=None)


def predict(point: Point, link: Link) -> float:
    """Seconds of `point`."""
    models = {
        "all_reduce": all_reduce,
        "all_gather": all_gather,
        "alltoall": all_to_all,
        "reduce_scatter": reduce_scatter,
    }
    return models[point.kind](point.nbytes, point.n, link)


def ratios(points: list[Point], link: Link) -> list[float]:
    """Predicted over measured seconds."""
    return [predict(point, link) / point.seconds for point in points]


def refit(
    file: DeviceFile,
    section: CollectiveEfficiency,
    points: list[Point],
    free: tuple[str, ...],
    *,
    peers: bool,
) -> CollectiveEfficiency:
    """`section` with the figures named in `free` fitted to `points`."""

    def loss(candidate: CollectiveEfficiency) -> float:
        link = link_of(file, candidate, peers=peers)
        return mean(min(1.0, abs(log(r))) for r in ratios(points, link))

    return search(section, free, loss, CEILINGS)


def main() -> None:
    """Refits where asked, then prints the errors by GPU, software and collective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="search the parameters before comparing")
    options = parser.parse_args()
    data = data_folder()
    sections: dict[str, CollectiveEfficiency] = {}
    if options.fit:
        for generation, (gpu, software, most) in FITTED.items():
            file = get_device(GPUS[gpu])
            nccl, served = (
                [p for p in list(read_points(newest(data / gpu / "comm" / name)))[::2] if p.n <= most]
                for name in ("nccl", software)
            )
            found = refit(file, file.efficiency.collective, nccl, NCCL_FREE, peers=False)
            if found.peers is not None:
                found = refit(file, found, served, PEERS_FREE, peers=True)
            sections[generation] = found
            print(f"{generation}: {show(found, (*NCCL_FREE, *PEERS_FREE))}")
    for gpu, name in GPUS.items():
        file = get_device(name)
        section = sections.get(file.generation, file.efficiency.collective)
        used, kernels, most = FITTED[file.generation]
        for software in ("nccl", *SOFTWARE):
            folder = newest(data / gpu / "comm" / software)
            by_kind: dict[tuple[str, int], list[Point]] = defaultdict(list)
            for point in read_points(folder):
                by_kind[point.kind, point.n].append(point)
            link = link_of(file, section, peers=software != "nccl")
            for (kind, n), points in sorted(by_kind.items()):
                fitted = gpu == used and software in ("nccl", kernels) and n <= most
                held = "" if fitted else " (held out)"
                print(line(f"{gpu} {software} {folder.name} {kind} {n}{held}", ratios(points, link)))


if __name__ == "__main__":
    main()
