"""The neurons of one MLP on disk, and a window of them in memory.

A neuron's row of the up projection and its column of the down projection lie side by side, so that one read
brings both. The window holds the neurons that the newest tokens used, in rows that those of forgotten neurons
free.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque

import numpy as np
import torch

from twofold.models.offloading import forget_pages


class NeuronStore:
    """up [neurons, width] and down [neurons, width] (its columns) in a file without a name, float16.

    most: neurons that the window holds. tokens: newest steps whose neurons stay in it. bytes_read: from the
    file so far.
    """

    def __init__(self, up: torch.Tensor, down: torch.Tensor, *, most: int, tokens: int) -> None:
        rows = torch.stack([up, down], 1).half().contiguous().numpy()
        self.num_neurons, _, self.width = rows.shape
        self.row_bytes = rows[0].nbytes
        self._file = tempfile.TemporaryFile(prefix="twofold-neurons-")  # noqa: SIM115 (kept open)
        self._file.write(rows.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        forget_pages(self._file.fileno())
        self.bytes_read = 0
        self.window = torch.zeros(most, 2, self.width, dtype=torch.float16)
        self._at = np.full(self.num_neurons, -1, dtype=np.int64)
        self._free = list(range(most - 1, -1, -1))
        self._used: deque[np.ndarray] = deque()
        self._tokens = tokens

    def missing(self, wanted: np.ndarray) -> np.ndarray:
        """Those of the neurons `wanted` (ascending) that are not in the window."""
        found: np.ndarray = wanted[self._at[wanted] < 0]
        return found

    def read(self, neurons: np.ndarray) -> torch.Tensor:
        """Their rows from the file, [n, 2, width]. Neighbours are read at once."""
        out = torch.empty(len(neurons), 2, self.width, dtype=torch.float16)
        data = out.numpy().data.cast("B")
        file, size = self._file.fileno(), self.row_bytes
        at = 0
        for run in np.split(neurons, np.flatnonzero(np.diff(neurons) != 1) + 1):
            nbytes, offset = len(run) * size, int(run[0]) * size
            done = 0
            while done < nbytes:
                done += os.preadv(file, [data[at + done : at + nbytes]], offset + done)
            at += nbytes
        forget_pages(file)
        self.bytes_read += at
        return out

    def keep(self, wanted: np.ndarray, missing: np.ndarray, rows: torch.Tensor) -> torch.Tensor:
        """A step used `wanted`, of which `missing` were read as `rows`: they enter the window, those that
        only older steps used leave it. Returns the places of `wanted` in the window. `wanted` fits into
        it."""
        self._used.append(wanted)
        while len(self._used) > self._tokens:
            self._forget(self._used.popleft())
        while len(missing) > len(self._free):  # the window is small: forget sooner
            self._forget(self._used.popleft())
        places = np.array([self._free.pop() for _ in missing], dtype=np.int64)
        self._at[missing] = places
        self.window[torch.from_numpy(places)] = rows
        return torch.from_numpy(self._at[wanted])

    def _forget(self, neurons: np.ndarray) -> None:
        """Drop those of `neurons` that no remembered step used."""
        kept = np.zeros(self.num_neurons, dtype=bool)
        for used in self._used:
            kept[used] = True
        gone = neurons[~kept[neurons] & (self._at[neurons] >= 0)]
        self._free += self._at[gone].tolist()
        self._at[gone] = -1
