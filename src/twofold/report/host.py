"""What a result says of the machine and the software that produced it."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Host(BaseModel):
    """The machine on which a result was made. `accelerator` is None where none was used or looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    processor: str
    cores: int
    memory_bytes: int | None = None
    accelerator: str | None = None
    python: str
    torch: str | None = None

    @classmethod
    def here(cls, accelerator: str | None = None) -> Host:
        """This machine. `cores` counts those that this process may use."""
        return _here() if accelerator is None else _here().model_copy(update={"accelerator": accelerator})


@cache
def _here() -> Host:
    return Host(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        python=platform.python_version(),
        torch=_installed("torch"),
    )


def twofold_version() -> str:
    """The installed version of Twofold, "unknown" where it runs without being installed."""
    return _installed("twofold") or "unknown"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's model name; Linux tells it only in /proc/cpuinfo."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
