"""Weights that stay as a checkpoint stores them: packed for native kernels, or counted for predictions."""

from __future__ import annotations

from pathlib import Path

from twofold.models.packed import PackedMatrix, Segment, merge, pack, packable
from twofold.models.packed_cache import PackedCache
from twofold.models.stored import LazyTensors
from twofold.models.tensors import Checkpoint, StoredTensor


class StoredWeights:
    """Packs the quantised matrices of a checkpoint, or counts them (`load=False`, for modelled devices).

    exact: products keep float32 activations. What is packed is kept in a file beside the checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, *, load: bool, exact: bool = False) -> None:
        self.checkpoint, self.load, self.exact = checkpoint, load, exact
        path = Path(checkpoint.path)
        self._cache = PackedCache(path) if load and path.is_file() else None

    def matrix(self, parts: list[tuple[str, int]], in_features: int) -> PackedMatrix | None:
        """The matrix made of the rows of `parts` (tensor name, rows; `name#j` is entry j of a stack), or None
        where one of them is not stored in a format that can be packed."""
        segments = []
        for name, rows in parts:
            fmt = self._format(name.partition("#")[0])
            if fmt is None or not packable(fmt, in_features):
                return None
            segments.append(Segment(fmt, rows))
        if not self.load:
            return PackedMatrix(segments, in_features, None, exact=self.exact)
        key = "+".join(name for name, _ in parts)
        if self._cache is not None:
            nbytes = sum(s.nbytes(in_features) for s in segments)
            if (found := self._cache.get(key, nbytes)) is not None:
                return PackedMatrix(merge(segments), in_features, found, exact=self.exact)
        matrix = pack([self._part(name) for name, _ in parts], in_features, exact=self.exact)
        if self._cache is not None:
            self._cache.put(key, matrix.tensors["packed"])
        return matrix

    def save(self) -> None:
        """Keep what was packed for the next load."""
        if self._cache is not None:
            self._cache.save()

    def _format(self, name: str) -> str | None:
        tensors = self.checkpoint.tensors
        if name not in tensors:
            return None
        return tensors.format_of(name) if isinstance(tensors, LazyTensors) else tensors[name].format

    def _part(self, name: str) -> StoredTensor:
        base, _, entry = name.partition("#")
        found = self.checkpoint.tensors[base]
        if not entry:
            return found
        experts = found.shape[0]
        data = found.data.view(experts, -1)[int(entry)]
        return StoredTensor(name, found.format, found.shape[1:], data, found.widen)
