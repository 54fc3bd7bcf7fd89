"""What a process holds in memory, as Linux tells it: what is held against the bytes that predictions count.

Pages of a model's files are left out. They stay mapped for as long as the checkpoint is open, before a run as
after it, and the system can drop them at any time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterable
from pathlib import Path

_RESET_PEAK = "5"
"""What, written to clear_refs, makes the peak start anew at what is resident (Linux, proc_pid_clear_refs)."""


def resident_bytes(files: Iterable[Path]) -> int:
    """Bytes of this process in memory but for pages of `files`, freed ones given back first (0 where the
    system does not tell)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    return max(0, _status("VmRSS") - mapped_bytes(files))


class Peak:
    """The most that this process holds in memory from here on, but for pages of `files`."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = list(files)
        self._resets = False
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write(_RESET_PEAK)
            self._resets = True

    def read(self) -> int:
        """The peak in bytes; where the system does not let it start anew, what is in memory now."""
        return max(0, _status("VmHWM" if self._resets else "VmRSS") - mapped_bytes(self._files))


def mapped_bytes(files: Iterable[Path]) -> int:
    """Bytes of `files` that are resident in this process (0 where the system does not tell)."""
    wanted = {str(file.resolve()) for file in files}
    total, inside = 0, False
    with contextlib.suppress(OSError), open("/proc/self/smaps", encoding="utf-8") as maps:
        for line in maps:
            if not line.split(" ", 1)[0].endswith(":"):  # the line that begins a mapping ends with its file
                inside = line.rstrip("\n")[73:] in wanted
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes; 0 where there is none."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
