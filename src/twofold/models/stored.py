"""How the tensors of a file become the canonical ones: renamed, split, reordered or joined, and only when
asked for.

A `Source` is a tensor that a file holds (or that follows from such tensors): its shape and format are known,
its bytes are fetched by `load`. Rows are moved as packed bytes: blocks run along the input dimension, so that
no row is ever unpacked to be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from twofold.models.gguf_types import view_as, widener
from twofold.models.tensors import StoredTensor
from twofold.ops.formats import get_format


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor to be: format and logical shape are known, `load` returns its stored bytes (flat uint8)."""

    format: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (all dimensions but the last are rows)."""
        return get_format(self.format).row_bytes(self.shape[-1])

    def stored(self, name: str) -> StoredTensor:
        """The tensor, under its canonical `name`."""
        return StoredTensor(name, self.format, self.shape, self.load(), widener(self.format))


class LazyTensors(Mapping[str, StoredTensor]):
    """Canonical tensors by name. Each look-up builds the tensor anew, so that nothing is held that nobody
    holds.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._sources[name].stored(name)

    def format_of(self, name: str) -> str:
        """The format that the tensor called `name` is stored in; reads nothing."""
        return self._sources[name].format

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def map_file(path: Path) -> Tensor:
    """The whole file as a flat uint8 tensor that is a private memory map: pages are read when touched."""
    size = path.stat().st_size
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)


def rows(source: Source, start: int, stop: int) -> Source:
    """Rows `start` to `stop` of a [out, in] matrix or of a vector's elements (a view of the same bytes)."""
    width = get_format(source.format).bits // 8 if len(source.shape) == 1 else source.row_bytes
    shape = (stop - start, *source.shape[1:])
    return replace(source, shape=shape, load=lambda: source.load()[start * width : stop * width])


def split_rows(source: Source, sizes: Sequence[int]) -> list[Source]:
    """A matrix cut along its output dimension into parts of `sizes` rows."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [rows(source, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def split_expert_rows(source: Source, sizes: Sequence[int]) -> list[Source]:
    """A [experts, out, in] tensor cut along `out` into parts of `sizes` rows (copied when loaded)."""
    experts, out, cols = source.shape

    def cut(start: int, stop: int) -> Source:
        def load() -> Tensor:
            return source.load().view(experts, out, -1)[:, start:stop].reshape(-1)

        return replace(source, shape=(experts, stop - start, cols), load=load)

    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [cut(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def reorder_rows(source: Source, order: Tensor) -> Source:
    """Row `i` of the result is row `order[i]` of `source` (copied when loaded)."""
    return replace(source, load=lambda: source.load().view(len(order), -1)[order].reshape(-1))


def stack(sources: Sequence[Source]) -> Source:
    """Equal tensors stacked along a new first dimension (copied when loaded)."""
    first = sources[0]
    for other in sources:
        if (other.format, other.shape) != (first.format, first.shape):
            raise ValueError(
                f"experts of one layer differ: {first.format} {list(first.shape)} and "
                f"{other.format} {list(other.shape)}"
            )
    return replace(
        first, shape=(len(sources), *first.shape), load=lambda: torch.cat([s.load() for s in sources])
    )


def transpose(source: Source) -> Source:
    """A [in, out] matrix of unblocked elements as [out, in] (copied when loaded)."""
    fmt = get_format(source.format)
    assert fmt.block == 1, "a blocked format cannot be transposed without unpacking"
    size = fmt.bits // 8

    def load() -> Tensor:
        elements = source.load().view(*source.shape, size)
        return elements.transpose(0, 1).reshape(-1)

    return replace(source, shape=source.shape[::-1], load=load)


def plus_one(source: Source) -> Source:
    """The tensor plus one, in float32: norms that store their distance from one (copied when loaded)."""

    def load() -> Tensor:
        values = widener(source.format)(source.load(), source.shape) + 1.0
        return view_as(values.view(-1), torch.uint8)

    return Source("f32", source.shape, load)
