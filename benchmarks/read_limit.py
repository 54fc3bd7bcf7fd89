"""What reading memory allows here: bytes per second of all threads going through a buffer once."""

from __future__ import annotations

import time

import torch

COLS = 1024
PASSES = 3


class ReadLimit:
    """Reads a buffer of `nbytes`, as large as the model's weights, so that it lies where they do: in the last
    cache where they fit, else in memory.

    Uses torch's threads. Two of its kernels that read everything once are tried; the faster one counts.
    """

    def __init__(self, nbytes: int) -> None:
        self.matrix = torch.ones(max(1, nbytes // (4 * COLS)), COLS)
        self.vector = torch.ones(COLS)

    def measure(self) -> float:
        """Best bytes/s of a few passes."""
        flat = self.matrix.view(-1)
        best = float("inf")
        for read in (lambda: torch.mv(self.matrix, self.vector), flat.amax):
            for _ in range(PASSES):
                start = time.perf_counter()
                read()
                best = min(best, time.perf_counter() - start)
        return 4 * flat.numel() / best
