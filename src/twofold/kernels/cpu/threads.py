"""How many threads the native kernels use, and how torch's keep out of their way.

A team's members meet after every op, so one more than there are cores makes all of them wait. Two
hyper-threads share one core's vector units; they count once.

Torch has a team of its own (OpenMP). Its members spin for some milliseconds after each parallel op, on the
cores that the native team wants: reference kernels in the middle of a step would slow the native ones around
them. Asleep at once, they are woken for each op, which costs a virtual machine more than most ops take. So
where the process is ours (the command line) `quiet_openmp` has them spin for a fraction of a millisecond, as
long as torch's ops follow each other, then sleep; their number stays torch's own, for the reference kernels.
In a process that is not ours its owner decides, by the same variables in the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from math import ceil
from pathlib import Path

VARIABLE = "TWOFOLD_THREADS"
"""Environment variable that sets the number of threads."""

_SPINS = 5_000
"""Turns of GNU's waiting loop, some 0.2 ms. With 0, 1,000, 3,000, 10,000 and 30,000 a token of `zipvl`,
mostly ops of torch, took 337, 128, 94, 97 and 89 ms on two cores, and one of the native baseline 10.6, 11.3,
10.4, 10.1 and 11.8 ms (two runs each)."""

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def default_threads() -> int:
    """TWOFOLD_THREADS where it is set, else the cores that this process may use: those of its affinity mask,
    hyper-threads counted once, and no more than its container's quota. ValueError where the variable is not a
    whole number from 1 up."""
    asked = os.environ.get(VARIABLE, "").strip()
    if not asked:
        return _available_cores()
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(
            f"{VARIABLE} is {asked!r}; it must be a whole number from 1 up ({_available_cores()} cores are "
            "available here)"
        )
    return int(asked)


def quiet_openmp() -> None:
    """Has torch's threads spin briefly, then sleep, between parallel ops. OpenMP reads its settings when
    torch is imported, so it does nothing after that; what the user has set stays."""
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # GNU's and LLVM's
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))  # GNU's, which it takes over the policy
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel's


@cache
def _available_cores() -> int:
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = physical_cores(cpus, _CPUS)
    quota = cpu_quota(_CGROUP)
    return max(1, min(cores, ceil(quota)) if quota is not None else cores)


def physical_cores(cpus: Iterable[int], topology: Path) -> int:
    """How many cores the logical processors `cpus` belong to; their number where `topology` (Linux' folder of
    processors) does not tell."""
    groups = set()
    for cpu in cpus:
        file = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        groups.add(file.read_text().strip() if file.is_file() else f"cpu {cpu}")
    return len(groups)


def cpu_quota(cgroup: Path) -> float | None:
    """Processors' worth of time that the container may use (cgroup v2's cpu.max, or v1's quota over period);
    None where nothing limits it."""
    v2, v1 = cgroup / "cpu.max", cgroup / "cpu"
    if v2.is_file():
        quota, period = v2.read_text().split()
    elif (v1 / "cpu.cfs_quota_us").is_file():
        quota, period = (v1 / "cpu.cfs_quota_us").read_text(), (v1 / "cpu.cfs_period_us").read_text()
    else:
        return None
    return None if quota == "max" or float(quota) <= 0 else float(quota) / float(period)
