"""What reading memory allows here: bytes per second of all threads going through a buffer once."""

from __future__ import annotations

import time

import torch

COLS = 1024
SECONDS = 0.5
"""Time for each kernel: as decoding does, it goes through the buffer often enough to fill the last cache."""


class ReadLimit:
    """Reads a buffer of `nbytes`, as large as the model's weights, so that it lies where they do: in the last
    cache where they fit, else in memory.

    Uses torch's threads. Two of its kernels that read everything once are tried; the faster one counts.
    """

    def __init__(self, nbytes: int) -> None:
        self.matrix = torch.ones(max(1, nbytes // (4 * COLS)), COLS)
        self.vector = torch.ones(COLS)

    def measure(self) -> float:
        """Bytes/s of the best pass."""
        flat = self.matrix.view(-1)
        best = float("inf")
        for read in (lambda: torch.mv(self.matrix, self.vector), flat.amax):
            now = time.perf_counter()
            end = now + SECONDS
            while now < end:
                start = now
                read()
                now = time.perf_counter()
                best = min(best, now - start)
        return 4 * flat.numel() / best
