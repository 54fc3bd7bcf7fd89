"""Reader of GGUF files (versions 2 and 3, little-endian): metadata, and tensors as views of the mapped file.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing in the file is trusted: every
length is checked against the bytes that are left before anything is allocated, and every fault is a
ValueError that says what is wrong.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.models.gguf_formats import GGML_FORMATS, GGML_OTHER
from twofold.ops.formats import get_format

if TYPE_CHECKING:
    from twofold.models.stored import Source

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_MIN_KEY_BYTES = 8 + 4 + 1  # key length, value type, smallest value
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, dimensions, one dimension, type, offset


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header declares it: logical shape (output first), ggml type number, offset from the
    start of data.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A parsed file: `metadata` by key; `infos` by tensor name; `data_start` in bytes from the start of the
    file.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]
    data_start: int

    def sources(self) -> dict[str, Source]:
        """All tensors by name, as views of the mapped file.

        Raises ValueError for a type that cannot be read (naming the tensor) or data beyond the end of the
        file.
        """
        from twofold.models.stored import Source, map_file  # torch: not where only metadata are wanted

        size = self.path.stat().st_size
        places = {name: self._place(info, size) for name, info in self.infos.items()}
        mapped = map_file(self.path)
        return {
            name: Source(
                GGML_FORMATS[self.infos[name].ggml_type],
                self.infos[name].shape,
                lambda start=start, stop=stop: mapped[start:stop],  # type: ignore[misc]
            )
            for name, (start, stop) in places.items()
        }

    def _place(self, info: TensorInfo, size: int) -> tuple[int, int]:
        if info.ggml_type not in GGML_FORMATS:
            given = GGML_OTHER.get(info.ggml_type, f"number {info.ggml_type}")
            allowed = ", ".join(sorted(GGML_FORMATS.values()))
            raise ValueError(
                f"{self.path}: tensor {info.name!r} has the unsupported type {given}; supported: {allowed}"
            )
        fmt = get_format(GGML_FORMATS[info.ggml_type])
        if info.shape[-1] % fmt.block:
            raise ValueError(
                f"{self.path}: tensor {info.name!r} has rows of {info.shape[-1]} weights, "
                f"not a multiple of the {fmt.block} of a {fmt.name} block"
            )
        start = self.data_start + info.offset
        stop = start + math.prod(info.shape[:-1]) * fmt.row_bytes(info.shape[-1])
        if stop > size:
            raise ValueError(
                f"{self.path}: truncated: tensor {info.name!r} ends at byte {stop:,}, "
                f"the file has {size:,} bytes"
            )
        return start, stop


class _Cursor:
    """Reads values one after the other from the mapped file and knows where it ends."""

    def __init__(self, buffer: mmap.mmap, path: Path) -> None:
        self._buffer, self._path, self._size = buffer, path, len(buffer)
        self.at = 0

    @property
    def left(self) -> int:
        return self._size - self.at

    def take(self, count: int, what: str) -> int:
        """Step over `count` bytes; returns where they start."""
        if count > self.left:
            raise ValueError(
                f"{self._path}: truncated header: {what} needs {count:,} bytes at byte {self.at:,}, "
                f"the file has {self._size:,}"
            )
        self.at += count
        return self.at - count

    def number(self, code: str, what: str) -> Any:
        at = self.take(struct.calcsize("<" + code), what)
        return struct.unpack_from("<" + code, self._buffer, at)[0]

    def string(self, what: str) -> str:
        length = self.number("Q", what)
        at = self.take(length, what)
        try:
            return self._buffer[at : at + length].decode()
        except UnicodeDecodeError:
            raise ValueError(
                f"{self._path}: {what} at byte {at:,} is not UTF-8: the file is damaged"
            ) from None

    def value(self, kind: int, what: str) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(what)
        if kind != _ARRAY:
            raise ValueError(f"{self._path}: {what} has the unknown value type {kind}: the file is damaged")
        kind, count = self.number("I", what), self.number("Q", what)
        if kind in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[kind])
            at = self.take(count * size, what)
            return list(struct.unpack_from(f"<{count}{_SCALARS[kind]}", self._buffer, at))
        if kind != _STRING:
            raise ValueError(f"{self._path}: {what} is an array of the unsupported value type {kind}")
        if count * 8 > self.left:
            raise ValueError(f"{self._path}: {what} claims {count:,} strings, more than the file can hold")
        return [self.string(what) for _ in range(count)]

    def tensor(self, number: int) -> TensorInfo:
        name = self.string(f"name of tensor {number}")
        dims = self.number("I", f"tensor {name!r}")
        if not 1 <= dims <= _MAX_DIMS:
            raise ValueError(
                f"{self._path}: tensor {name!r} claims {dims} dimensions, allowed are 1 to {_MAX_DIMS}"
            )
        shape = tuple(self.number("Q", f"shape of tensor {name!r}") for _ in range(dims))
        if 0 in shape:
            raise ValueError(f"{self._path}: tensor {name!r} has an empty dimension: {list(shape)}")
        kind, offset = (
            self.number("I", f"type of tensor {name!r}"),
            self.number("Q", f"offset of tensor {name!r}"),
        )
        # ggml counts dimensions from the contiguous one; ours end with it.
        return TensorInfo(name, shape[::-1], kind, offset)


def read_gguf(path: Path) -> GGUFFile:
    """Parse the header of the GGUF file at `path`; tensor data stays on disk.

    Raises ValueError where the file is missing, is not GGUF, is damaged or cut off.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        return _parse(_Cursor(buffer, path), path, buffer[:4])


def _parse(cursor: _Cursor, path: Path, magic: bytes) -> GGUFFile:
    if magic != b"GGUF":
        raise ValueError(f"{path}: not a GGUF file: it starts with {magic!r} instead of b'GGUF'")
    cursor.take(4, "magic")
    version = cursor.number("I", "version")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        hint = "; it is big-endian" if swapped in (2, 3) else ""
        raise ValueError(f"{path}: GGUF version {version} cannot be read, only 2 and 3{hint}")
    num_tensors, num_keys = cursor.number("Q", "tensor count"), cursor.number("Q", "metadata count")
    if num_keys * _MIN_KEY_BYTES + num_tensors * _MIN_TENSOR_BYTES > cursor.left:
        raise ValueError(
            f"{path}: claims {num_tensors:,} tensors and {num_keys:,} metadata keys, more than its "
            f"{cursor.left:,} bytes can hold: it is damaged or cut off"
        )
    metadata: dict[str, Any] = {}
    for number in range(num_keys):
        key = cursor.string(f"metadata key {number}")
        if key in metadata:
            raise ValueError(f"{path}: metadata key {key!r} appears twice")
        metadata[key] = cursor.value(cursor.number("I", f"type of {key!r}"), f"value of {key!r}")
    infos: dict[str, TensorInfo] = {}
    for number in range(num_tensors):
        info = cursor.tensor(number)
        if info.name in infos:
            raise ValueError(f"{path}: tensor {info.name!r} appears twice")
        infos[info.name] = info
    if (parts := metadata.get("split.count", 1)) > 1:
        raise ValueError(
            f"{path}: one of {parts} parts of a split model; join them with llama-gguf-split --merge"
        )
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise ValueError(f"{path}: general.alignment is {alignment!r}, it must be a multiple of 8")
    for info in infos.values():
        if info.offset % alignment:
            raise ValueError(
                f"{path}: tensor {info.name!r} starts at byte {info.offset:,}, not aligned to {alignment}"
            )
    return GGUFFile(path, version, metadata, infos, -(-cursor.at // alignment) * alignment)
