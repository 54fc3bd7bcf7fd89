"""Typed access to the metadata that describes one architecture in a GGUF file."""

from __future__ import annotations

import math
from typing import Any

from twofold.models.gguf import GGUFFile

_HARMLESS = {
    "vocab_size",  # the embedding's own rows count
    "rope.scaling.finetuned",
    "tensor_data_layout",
}


class Metadata:
    """The keys of one architecture, without its prefix; remembers which were read.

    All methods raise ValueError with the file, the key and the value where a value is not what it must be.
    """

    def __init__(self, file: GGUFFile, arch: str) -> None:
        self._all, self._prefix, self.path = file.metadata, arch + ".", file.path
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; a list with one value per layer counts as that value where all are the same."""
        self._read.add(key)
        value = self._all.get(self._prefix + key, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                self._fail(key, "differs from layer to layer, which is not supported")
            value = value[0]
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer; zero too where that is the default. Missing is an error where there is no
        default.
        """
        value = self.get(key, default)
        if value is None:
            raise ValueError(f"{self.path}: metadata key {self._prefix + key!r} is missing")
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < (1 if default is None else min(default, 1))
        ):
            self._fail(key, f"must be a positive integer, not {value!r}")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number. Missing is an error where there is no default."""
        value = self.get(key, default)
        if value is None:
            raise ValueError(f"{self.path}: metadata key {self._prefix + key!r} is missing")
        if not isinstance(value, int | float) or isinstance(value, bool) or not (0 < value < math.inf):
            self._fail(key, f"must be a positive number, not {value!r}")
        return float(value)

    def optional(self, key: str) -> float | None:
        """A positive finite number, None where it is missing or zero."""
        return self.number(key) if self.get(key) else None

    def refuse(self, key: str, *harmless: object) -> None:
        """ValueError where `key` is present with a value that is not among `harmless`."""
        value = self.get(key, harmless[0])
        if value not in harmless:
            self._fail(key, f"= {value!r} is not supported, only {harmless[0]!r}")

    def finish(self) -> None:
        """ValueError for keys that nobody read and that may matter."""
        for key, value in self._all.items():
            short = key.removeprefix(self._prefix)
            if short != key and short not in self._read | _HARMLESS and value:
                self._fail(short, f"= {value!r} is unknown and may change the model; refusing to ignore it")

    def _fail(self, key: str, why: str) -> None:
        raise ValueError(f"{self.path}: {self._prefix}{key} {why}")
