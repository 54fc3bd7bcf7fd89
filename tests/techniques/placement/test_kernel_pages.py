"""Pages of a file in memory at addresses of our choice, as the kernel sees them."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import pytest
import torch

from twofold.models.cache_memory import reserve
from twofold.techniques.placement.kernel_pages import OutOfMappingsError, PhysicalPages

PAGE = mmap.PAGESIZE


def in_memory(address: int, nbytes: int) -> list[bool]:
    """By page, whether it has memory, by mincore."""
    flags = (ctypes.c_ubyte * (nbytes // PAGE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), flags) == 0
    return [bool(flag & 1) for flag in flags]


def mappings(address: int, nbytes: int) -> list[tuple[int, int, str]]:
    """(start, end, what is mapped) of what lies in a range, by /proc/self/smaps."""
    found = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+\s*(.*)", line):
            start, end = (int(match[i], 16) for i in (1, 2))
            if start < address + nbytes and end > address:
                found.append((start, end, match[3]))
    return found


def test_pages_appear_where_they_are_mapped_and_take_memory_then() -> None:
    pages, area = PhysicalPages(8 * PAGE), reserve((8 * PAGE,), torch.uint8, torch.device("cpu"))
    at = area.data_ptr()
    assert pages.resident_bytes == 0
    pages.map(at + 2 * PAGE, 5 * PAGE, 2 * PAGE)
    assert pages.resident_bytes == 2 * PAGE
    assert in_memory(at, 8 * PAGE)[2:4] == [True, True]
    inside = [m for m in mappings(at, 8 * PAGE) if "twofold-cache" in m[2]]
    assert [(start, end) for start, end, _ in inside] == [(at + 2 * PAGE, at + 4 * PAGE)]
    area[2 * PAGE : 4 * PAGE] = 7
    assert int(pages.tensor(5 * PAGE, (2 * PAGE,), torch.uint8).sum()) == 7 * 2 * PAGE


def test_the_same_page_at_two_addresses_is_one_page() -> None:
    pages, area = PhysicalPages(2 * PAGE), reserve((4 * PAGE,), torch.uint8, torch.device("cpu"))
    pages.map(area.data_ptr(), PAGE, PAGE)
    pages.map(area.data_ptr() + 3 * PAGE, PAGE, PAGE)
    area[5] = 99
    assert int(area[3 * PAGE + 5]) == 99
    assert pages.resident_bytes == PAGE


def test_unmapping_keeps_the_content_and_giving_back_drops_it() -> None:
    pages, area = PhysicalPages(2 * PAGE), reserve((PAGE,), torch.uint8, torch.device("cpu"))
    pages.map(area.data_ptr(), 0, PAGE)
    area[:] = 3
    pages.unmap(area.data_ptr(), PAGE)
    assert int(area.sum()) == 0
    pages.map(area.data_ptr(), 0, PAGE)
    assert int(area[0]) == 3
    pages.unmap(area.data_ptr(), PAGE)
    pages.give_back(0, PAGE)
    assert pages.resident_bytes == 0
    pages.map(area.data_ptr(), 0, PAGE)
    assert int(area.sum()) == 0


def test_memory_can_be_had_before_it_appears_anywhere() -> None:
    pages = PhysicalPages(4 * PAGE)
    pages.hold(PAGE, 2 * PAGE)
    pages.hold(PAGE, PAGE)
    assert pages.resident_bytes == 2 * PAGE


def test_growing_costs_a_call_and_no_copy() -> None:
    pages, area = PhysicalPages(4 * PAGE), reserve((4 * PAGE,), torch.uint8, torch.device("cpu"))
    at = area.data_ptr()
    pages.map(at, 3 * PAGE, PAGE)
    area[:PAGE] = 1
    pages.map(at + PAGE, 0, PAGE)
    area[PAGE : 2 * PAGE] = 2
    assert area.data_ptr() == at
    assert int(area[: 2 * PAGE].sum()) == 3 * PAGE


def test_dropping_the_last_tensor_gives_the_addresses_back() -> None:
    pages, area = PhysicalPages(PAGE), reserve((64 * PAGE,), torch.uint8, torch.device("cpu"))
    at = area.data_ptr()
    pages.map(at + 7 * PAGE, 0, PAGE)
    del area
    assert not [m for m in mappings(at, 64 * PAGE) if "twofold-cache" in m[2]]


def test_too_many_mappings_are_an_error_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from twofold.techniques.placement import kernel_pages

    pages, area = PhysicalPages(PAGE), reserve((PAGE,), torch.uint8, torch.device("cpu"))
    monkeypatch.setattr(kernel_pages.ctypes, "get_errno", lambda: errno.ENOMEM)

    class Full:
        @staticmethod
        def mmap(*args: object) -> int | None:
            return ctypes.c_void_p(-1).value

    monkeypatch.setattr(kernel_pages, "_libc", Full)
    with pytest.raises(OutOfMappingsError, match="max_map_count"):
        pages.map(area.data_ptr(), 0, PAGE)
