"""Weights that stay as a checkpoint stores them: packed for native kernels, or counted for predictions."""

from __future__ import annotations

from pathlib import Path

from twofold.models.packed import PackedMatrix, Segment, merge, pack, packable
from twofold.models.packed_cache import PackedCache
from twofold.models.shard import Part, Shard, cut_stored, fits_blocks
from twofold.models.stored import LazyTensors
from twofold.models.tensors import Checkpoint, StoredTensor
from twofold.ops.formats import get_format


class StoredWeights:
    """Packs the quantised matrices of a checkpoint, or counts them (`load=False`, for modelled devices).

    exact: products keep float32 activations. What is packed is kept in a file beside the checkpoint, one per
    shard.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, load: bool, exact: bool = False, shard: Shard | None = None
    ) -> None:
        self.checkpoint, self.load, self.exact = checkpoint, load, exact
        path = Path(checkpoint.path)
        cut = shard is not None and shard.world > 1
        name = f"{shard.rank + 1}-of-{shard.world}" if shard is not None and cut else ""
        self._cache = PackedCache(path, name) if load and path.is_file() else None

    def block(self, part: Part) -> int | None:
        """How many columns of the tensor are stored together; None where it cannot be packed."""
        assert part.columns is not None
        fmt = self._format(part.name.partition("#")[0])
        return None if fmt is None or not packable(fmt, part.columns.total) else get_format(fmt).block

    def matrix(self, parts: list[Part]) -> PackedMatrix | None:
        """The matrix made of the rows of `parts`, or None where one of them is not stored in a format that
        can be packed. ValueError where its columns are to be cut within a block."""
        segments = []
        in_features = 0
        for part in parts:
            columns, block = part.columns, self.block(part)
            if block is None or columns is None:
                return None
            fmt = self._format(part.name.partition("#")[0])
            assert fmt is not None
            if not fits_blocks(columns, block):
                raise ValueError(
                    f"{self.checkpoint.spec.name}: {part.name} is stored in blocks of {block} ({fmt}), and a "
                    f"rank's columns {columns.start} to {columns.stop} begin or end within one; use another "
                    "tp, or weights 'dense'"
                )
            segments.append(Segment(fmt, part.rows.size))
            in_features = columns.size
        if not self.load:
            return PackedMatrix(segments, in_features, None, exact=self.exact)
        key = "+".join(part.key for part in parts)
        if self._cache is not None:
            nbytes = sum(s.nbytes(in_features) for s in segments)
            if (found := self._cache.get(key, nbytes)) is not None:
                return PackedMatrix(merge(segments), in_features, found, exact=self.exact)
        matrix = pack([self._part(part) for part in parts], in_features, exact=self.exact)
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

    def _part(self, part: Part) -> StoredTensor:
        base, _, entry = part.name.partition("#")
        found = self.checkpoint.tensors[base]
        if entry:
            experts = found.shape[0]
            data = found.data.view(experts, -1)[int(entry)]
            found = StoredTensor(part.name, found.format, found.shape[1:], data, found.widen)
        if found.shape != part.shape:
            raise ValueError(
                f"{self.checkpoint.spec.name}: {part.name} is {found.shape}, but its spec says {part.shape}"
            )
        return cut_stored(found, part)
