"""What it takes to map pages of physical memory where a kernel reads: calls of a driver or operating system.

GPUs: arXiv:2405.04437, table 3, on an A100: cuMemMap and cuMemSetAccess take 2 and 38 us for a page of 2 MiB,
the calls of the authors' changed driver 8, 8.5 and 9 us for pages of 64, 128 and 256 KiB (second-hand: the
table itself was not at hand). Physical pages are created beforehand. Other machines map as Linux does:
benchmarks/virtual_memory.py on a server with two cores of an x86 processor took 590 us of processor time for
60 calls of 3 pages of 4 KiB, and 1070 us for 60 calls of 96.
"""

from __future__ import annotations

from twofold.ops.movement import MapPages

_GPU = {64 << 10: 8e-6, 128 << 10: 8.5e-6, 256 << 10: 9e-6, 2 << 20: 40e-6}
"""Seconds by size of a page."""
_CALL, _CPU_PAGE = 9.6e-6, 0.086e-6
"""Seconds of a call, and of each 4 KiB that it maps."""

CPU_PAGE_BYTES = 4 << 10


def mapping_seconds(op: MapPages, *, gpu: bool) -> float:
    """Seconds of `op`. Pages of a size that was not measured take what the next smaller one does."""
    if not gpu:
        return op.runs * _CALL + op.pages * op.page_bytes / CPU_PAGE_BYTES * _CPU_PAGE
    known = [seconds for size, seconds in _GPU.items() if size <= op.page_bytes]
    return op.pages * (known[-1] if known else _GPU[64 << 10])
