"""What the process holds in memory: its peak, and without the pages of a model's files."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from twofold.measure.resident import Peak, mapped_bytes, resident_bytes

MIB = 1 << 20
SLACK = 8 * MIB

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")


def test_the_peak_has_what_is_freed_again() -> None:
    before = resident_bytes([])
    peak = Peak([])
    held = bytearray(64 * MIB)
    held[:: mmap.PAGESIZE] = b"\1" * len(held[:: mmap.PAGESIZE])
    del held
    assert abs(resident_bytes([]) - before) < SLACK
    assert abs(peak.read() - before - 64 * MIB) < SLACK


def test_a_peak_begins_anew() -> None:
    held = bytearray(64 * MIB)
    held[:: mmap.PAGESIZE] = b"\1" * len(held[:: mmap.PAGESIZE])
    del held
    before = resident_bytes([])
    assert abs(Peak([]).read() - before) < SLACK


def test_pages_of_the_files_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(32 * MIB))
    before = resident_bytes([file])
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert mapped_bytes([file]) == 32 * MIB
        assert abs(resident_bytes([file]) - before) < SLACK
        assert abs(Peak([file]).read() - before) < SLACK
        assert resident_bytes([]) - before > 24 * MIB
    assert mapped_bytes([file]) == 0
