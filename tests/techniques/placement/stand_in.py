"""The stand-in of the CUDA driver (cuda_stand_in.c), compiled and loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from twofold.techniques.placement.cuda_driver import Driver

SOURCE = Path(__file__).with_name("cuda_stand_in.c")


@cache
def library(granularity: int) -> str:
    """The path of the library, which maps by `granularity` bytes. Skips where there is no compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler here: the stand-in of the CUDA driver cannot be built")
    path = Path(mkdtemp(prefix="twofold-stand-in-")) / f"libcuda-{granularity}.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-DGRANULARITY={granularity}ull"]
    subprocess.run([compiler, *options, "-o", str(path), str(SOURCE)], check=True)
    return str(path)


class StandIn:
    """The driver for the one device that the stand-in has, and what the stand-in says of itself."""

    def __init__(self, granularity: int = 2 << 20) -> None:
        path = library(granularity)
        self.driver = Driver(0, path)
        self._library = ctypes.CDLL(path)
        self._library.stand_in_taken.restype = ctypes.c_uint64
        self._library.stand_in_capacity.argtypes = [ctypes.c_uint64]

    @property
    def taken(self) -> int:
        """Bytes of memory that exist."""
        return int(self._library.stand_in_taken())

    @property
    def left(self) -> tuple[int, int, int]:
        """Bytes of memory, address ranges and mappings that exist."""
        return self.taken, self._library.stand_in_ranges(), self._library.stand_in_mappings()

    def limit(self, nbytes: int) -> None:
        """Let there be only so much memory."""
        self._library.stand_in_capacity(nbytes)
