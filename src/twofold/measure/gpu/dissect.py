"""Latencies and the units that only CUDA reaches: compiled with nvcc where the machine has it.

What is measured follows Luo et al., "Benchmarking and dissecting the Nvidia Hopper GPU architecture" (IPDPS
2024): latency of each memory level, distributed shared memory, bulk copies (TMA), DPX instructions.
Throughput of the tensor cores, fp8 included, is among the products (`rates`).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from twofold.devices.microbench import Reading
from twofold.measure.suite import size_text

HOPPER = (9, 0)
"""Compute capability from which clusters, bulk copies and DPX instructions exist."""
LOADS = 100_000

L1_SIZE, L2_SIZE, MEMORY_SIZE = 32 << 10, 8 << 20, 1 << 30
"""Working sets of the chains: inside the first cache of an SM, inside the second one, far beyond it."""

_RETURNS_RATE = ("global_latency", "shared_latency", "cluster_bandwidth", "bulk_bandwidth", "dpx_rate")
_ARGUMENTS = {
    "global_latency": (ctypes.c_size_t, ctypes.c_long, ctypes.c_int),
    "shared_latency": (ctypes.c_long, ctypes.c_int),
    "cluster_bandwidth": (ctypes.c_int, ctypes.c_int),
    "bulk_bandwidth": (ctypes.c_int, ctypes.c_int, ctypes.c_int),
    "dpx_rate": (ctypes.c_int,),
}


def find_nvcc() -> str | None:
    """The CUDA compiler: in $CUDA_HOME, in PATH, or where it is usually installed."""
    for folder in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if folder and (Path(folder) / "bin" / "nvcc").is_file():
            return str(Path(folder) / "bin" / "nvcc")
    return shutil.which("nvcc")


def build(capability: tuple[int, int], folder: Path) -> Any:
    """The compiled library, for GPUs of that compute capability. ValueError where there is no compiler or it
    refuses."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise ValueError(
            "the CUDA compiler (nvcc) is not here: put it into PATH or name its folder in CUDA_HOME"
        )
    library = folder / "dissect.so"
    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    with resources.as_file(resources.files("twofold.measure.gpu") / "cuda" / "dissect.cu") as source:
        command = [
            nvcc,
            "-O3",
            "-std=c++17",
            arch,
            "-shared",
            "-Xcompiler",
            "-fPIC",
            "-o",
            str(library),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"nvcc refused: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no message'}"
        )
    loaded = ctypes.CDLL(str(library))
    for name in _RETURNS_RATE:
        function = getattr(loaded, name)
        function.restype, function.argtypes = ctypes.c_double, _ARGUMENTS[name]
    return loaded


def dissect(
    capability: tuple[int, int], units: int, missing: dict[str, str], library: Any = None
) -> Iterator[Reading]:
    """All figures that the GPU has. What cannot be measured goes to `missing`. library: in place of the
    compiled one."""
    with tempfile.TemporaryDirectory() as folder:
        if library is None:
            try:
                library = build(capability, Path(folder))
            except ValueError as error:
                missing["latencies and Hopper's units"] = str(error)
                return
        for bench, case, unit, value in _measurements(library, capability, units):
            if value < 0:
                missing[f"{bench}, {case}"] = "the kernel failed on this GPU"
            else:
                yield Reading(bench, case, value, unit)
        if capability < HOPPER:
            missing["clusters, bulk copies, DPX"] = "this GPU is older than Hopper"


def _measurements(
    library: Any, capability: tuple[int, int], units: int
) -> Iterator[tuple[str, str, str, float]]:
    yield "latency", f"L1, {size_text(L1_SIZE)}", "s", library.global_latency(L1_SIZE, LOADS, 0)
    yield "latency", f"L2, {size_text(L2_SIZE)}", "s", library.global_latency(L2_SIZE, LOADS, 1)
    yield "latency", f"memory, {size_text(MEMORY_SIZE)}", "s", library.global_latency(MEMORY_SIZE, LOADS, 1)
    yield "latency", "shared memory", "s", library.shared_latency(LOADS, 0)
    if capability < HOPPER:
        return
    yield "latency", "neighbour's shared memory", "s", library.shared_latency(LOADS, 1)
    for size in (2, 4, 8):
        case = f"clusters of {size} blocks"
        yield "distributed shared memory", case, "B/s", library.cluster_bandwidth(size, 2000)
    for nbytes in (2 << 10, 16 << 10, 128 << 10):
        case = f"copies of {size_text(nbytes)}, one block per SM"
        yield "bulk copy (TMA)", case, "B/s", library.bulk_bandwidth(nbytes, units, 1000)
    yield "DPX", "max(a + b, c, 0), 32 bits", "op/s", library.dpx_rate(20_000)
