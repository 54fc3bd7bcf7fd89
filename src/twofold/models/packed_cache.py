"""Packed weights on disk, beside the model: packing is done once, later loads map the file.

The file: one line of JSON (padded to DATA bytes where it fits, else to the next multiple), then the packed
bytes of each matrix at multiples of 64. The line names the layout's version and the size and time of the
checkpoint; a file that says otherwise is ignored and rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import platformdirs
import torch

from twofold.models.stored import map_file

LAYOUT = 1
"""Version of the packed layout (kernels/cpu/csrc/matmul_kernels.h)."""
_ALIGN = 64


class PackedCache:
    """The packed matrices of one checkpoint file, by key; those of a shard lie in a file of their own, since
    ranks write at the same time.

    get: what an earlier load left; put: remember a matrix; save: write the file where anything was put.
    """

    def __init__(self, checkpoint: Path, shard: str = "") -> None:
        status = checkpoint.stat()
        self._stamp = {"layout": LAYOUT, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        self._paths = _places(checkpoint, shard)
        self._new: dict[str, torch.Tensor] = {}
        self._index: dict[str, tuple[int, int]] = {}
        self._data: torch.Tensor | None = None
        for path in self._paths:
            if self._open(path):
                break

    def get(self, key: str, nbytes: int) -> torch.Tensor | None:
        """The packed bytes of the matrix called `key`, mapped; None where there are none of that size."""
        found = self._index.get(key)
        return self._mapped(key) if found is not None and found[1] == nbytes else None

    def put(self, key: str, packed: torch.Tensor) -> None:
        """Keep `packed` for `save`."""
        self._new[key] = packed

    def save(self) -> Path | None:
        """Write everything that was put, if anything was. Returns where, or None where nowhere can be written
        (the next load packs again)."""
        if not self._new:
            return None
        self._new = {**{key: self._mapped(key) for key in self._index}, **self._new}
        for path in self._paths:
            try:
                self._write(path)
            except OSError:
                continue
            return path
        return None

    def _mapped(self, key: str) -> torch.Tensor:
        assert self._data is not None
        at, nbytes = self._index[key]
        return self._data[at : at + nbytes]

    def _open(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                header = json.loads(file.readline())
        except (OSError, ValueError):
            return False
        if not isinstance(header, dict) or header.get("stamp") != self._stamp:
            return False
        if path.stat().st_size != header["end"]:  # cut short
            return False
        self._index = {name: (at, size) for name, (at, size) in header["matrices"].items()}
        self._data = map_file(path)
        return True

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = {name: tensor.numel() for name, tensor in self._new.items()}
        start = 4096
        while len(line := self._header(sizes, start)) > start:
            start *= 2
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(line.ljust(start, b" "))
                for tensor in self._new.values():
                    file.write(tensor.numpy().data)
                    file.write(b"\0" * (-tensor.numel() % _ALIGN))
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def _header(self, sizes: dict[str, int], start: int) -> bytes:
        matrices, at = {}, start
        for name, size in sizes.items():
            matrices[name] = (at, size)
            at += -(-size // _ALIGN) * _ALIGN
        return json.dumps({"stamp": self._stamp, "end": at, "matrices": matrices}).encode() + b"\n"


def _places(checkpoint: Path, shard: str) -> list[Path]:
    """Beside the model, or under the user's cache folder where that cannot be written."""
    checkpoint = checkpoint.resolve()
    digest = hashlib.sha256(str(checkpoint).encode()).hexdigest()[:16]
    ending = f".{shard}.packed" if shard else ".packed"
    elsewhere = platformdirs.user_cache_path("twofold") / "packed" / f"{checkpoint.stem}-{digest}{ending}"
    return [checkpoint.with_name(checkpoint.name + ending), elsewhere]
