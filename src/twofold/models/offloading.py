"""Weights of whole layers that lie in a file or in host memory, and pass through two buffers of the device's.

While a layer runs from one buffer, a thread reads the next layer's weights into the other, past the system's
page cache where it can, so that what is measured is the store and not memory that was to be saved.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from twofold.models.placement import retarget
from twofold.models.weights import Matrix
from twofold.ops.base import DISK, HOST

_PAGE = 4096
"""What direct reads must be aligned to: offsets, lengths and addresses."""
_ALIGNMENT = 64
"""What native kernels want tensors aligned to."""


@dataclass(slots=True)
class _Stored:
    """A layer: where it lies (offset in the file, or its bytes in host memory), how long it is, and the
    tensors that it is made of with their offsets."""

    offset: int
    nbytes: int
    tensors: list[tuple[Matrix, str, int, torch.Tensor]] = field(default_factory=list)
    host: torch.Tensor | None = None


class Offloaded:
    """Layers that were given by `put`, in the order in which they run. counters: bytes_fetched and
    layers_fetched move with every layer that is read."""

    def __init__(self, counters: dict[str, int]) -> None:
        self.counters = counters
        self.buffers: list[torch.Tensor] = []
        self._layers: list[_Stored] = []
        self._coming: dict[int, Future[None]] = {}
        self._file: int | None = None
        self._end = 0
        self._direct = False
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")

    def put(self, matrices: list[Matrix], space: str) -> int:
        """Move `matrices`, of one layer, to `space`; their own memory is freed. Returns the layer's
        number."""
        stored = _Stored(self._end, 0)
        parts = [(m, name, t.contiguous()) for m in matrices for name, t in m.tensors.items()]
        for matrix, name, tensor in parts:
            stored.tensors.append((matrix, name, stored.nbytes, torch.empty_like(tensor, device="meta")))
            stored.nbytes += _padded(tensor.numel() * tensor.element_size(), _ALIGNMENT)
        stored.nbytes = _padded(stored.nbytes, _PAGE)
        image = _pages(stored.nbytes)
        for (_, _, offset, _), (_, _, tensor) in zip(stored.tensors, parts, strict=True):
            _view(image, offset, tensor).copy_(tensor)
        if space == HOST:
            stored.host = image
        else:
            assert space == DISK, space
            self._write(image)
        for matrix in matrices:
            retarget(matrix, {n: torch.empty(0, dtype=t.dtype) for n, t in matrix.tensors.items()})
        self._layers.append(stored)
        return len(self._layers) - 1

    def finish(self) -> None:
        """Let the matrices appear in the buffers."""
        if not self._layers:
            return
        size = max(stored.nbytes for stored in self._layers)
        self.buffers = [_pages(size) for _ in range(min(2, len(self._layers)))]
        for number, stored in enumerate(self._layers):
            found: dict[int, tuple[Matrix, dict[str, torch.Tensor]]] = {}
            for matrix, name, offset, like in stored.tensors:
                found.setdefault(id(matrix), (matrix, {}))[1][name] = _view(
                    self._buffer(number), offset, like
                )
            for matrix, tensors in found.values():
                retarget(matrix, tensors)

    def bring(self, number: int) -> None:
        """Wait until layer `number` is in its buffer, and begin to read the one that runs after it. The layer
        before it has run."""
        coming = self._coming.pop(number, None)
        if coming is None:  # the first step, or one that was broken off
            self._settle()
            coming = self._reader.submit(self._read, number)
        coming.result()
        after = (number + 1) % len(self._layers)
        if self._buffer(after) is not self._buffer(number) and after not in self._coming:
            self._coming[after] = self._reader.submit(self._read, after)

    def allocated(self) -> int:
        """Bytes of tensors that the buffers are held for: what pads them is not counted."""
        sizes = [sum(t.numel() * t.element_size() for *_, t in stored.tensors) for stored in self._layers]
        return len(self.buffers) * max(sizes, default=0)

    def __del__(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
        if self._file is not None:
            os.close(self._file)

    # --- inside ---

    def _settle(self) -> None:
        """Wait for what is still being read: it would land in a buffer that is needed."""
        for coming in self._coming.values():
            coming.result()
        self._coming.clear()

    def _buffer(self, number: int) -> torch.Tensor:
        """Neighbours in the order of running have different ones; but with an odd number of layers the last
        and the first share one, and the first is then read once the last has run."""
        return self.buffers[number % len(self.buffers)]

    def _write(self, image: torch.Tensor) -> None:
        if self._file is None:
            self._file, self._direct = _open()
        data, done = image.numpy().data, 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], self._end + done)
        self._end += len(data)

    def _read(self, number: int) -> None:
        stored = self._layers[number]
        target = self._buffer(number)[: stored.nbytes]
        if stored.host is not None:
            target.copy_(stored.host)
        else:
            assert self._file is not None
            data, done = target.numpy().data, 0
            while done < len(data):
                done += os.preadv(self._file, [data[done:]], stored.offset + done)
            if not self._direct:
                forget_pages(self._file, stored.offset, stored.nbytes)
        self.counters["layers_fetched"] += 1
        self.counters["bytes_fetched"] += stored.nbytes


def _open() -> tuple[int, bool]:
    """A file without a name, which is gone with this process, and whether it is read past the page cache."""
    handle, path = tempfile.mkstemp(prefix="twofold-weights-")
    os.close(handle)
    direct = getattr(os, "O_DIRECT", 0)  # only Linux has it
    try:
        try:
            return os.open(path, os.O_RDWR | direct), bool(direct)
        except OSError:  # the file system has no direct reads
            return os.open(path, os.O_RDWR), False
    finally:
        os.unlink(path)


def forget_pages(file: int, offset: int = 0, nbytes: int = 0) -> None:
    """Have the system keep nothing of that part of `file` (0 bytes: to its end) in memory, which is meant to
    be saved. Where it cannot be told, it keeps what it likes."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, offset, nbytes, os.POSIX_FADV_DONTNEED)


def _pages(nbytes: int) -> torch.Tensor:
    """Zeroed bytes that begin with a page."""
    return torch.frombuffer(mmap.mmap(-1, max(nbytes, _PAGE)), dtype=torch.uint8)


def _view(image: torch.Tensor, offset: int, like: torch.Tensor) -> torch.Tensor:
    """The part of `image` at `offset` as a tensor of the type and shape of `like`."""
    size = like.numel() * like.element_size()
    return image[offset : offset + size].view(like.dtype).view(like.shape)


def _padded(nbytes: int, unit: int) -> int:
    return -(-nbytes // unit) * unit
