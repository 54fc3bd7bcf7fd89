"""Where a model's weights come from while it is put together: a checkpoint, or nothing but shapes."""

from __future__ import annotations

import torch

from twofold.models.context import Maybe, NormWeights
from twofold.models.packed import PackedMatrix
from twofold.models.shard import Part, whole
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint
from twofold.models.weights import (
    ACT_BYTES,
    TORCH_DTYPES,
    DenseScheme,
    LearnedScheme,
    Matrix,
    WeightScheme,
)
from twofold.ops.base import Precision
from twofold.ops.formats import BF16, F16, F32, Format

DENSE_FORMATS: dict[Precision, Format] = {"fp32": F32, "bf16": BF16, "fp16": F16}


class WeightSource:
    """Hands out matrices as the schemes store them, and vectors in the activations' dtype; all None without a
    checkpoint.

    native: lay matrices out for native CPU kernels. small_bytes: bytes of everything handed out that is not a
    matrix, counted.
    """

    def __init__(
        self,
        model: str,
        precision: Precision,
        scheme: WeightScheme | None,
        checkpoint: Checkpoint | None,
        where: torch.device,
        stored: StoredWeights | None = None,
        *,
        native: bool = False,
    ) -> None:
        dense = DENSE_FORMATS.get(precision)
        if dense is None:
            raise ValueError(f"activations in {precision} are not supported; use {', '.join(DENSE_FORMATS)}")
        self.model, self.scheme, self.checkpoint, self.where = model, scheme, checkpoint, where
        self.stored, self.native = stored, native
        self.act = ACT_BYTES[precision]
        self.dtype = TORCH_DTYPES[precision]
        self.dense = DenseScheme(dense, self.dtype)
        self.small_bytes = 0
        self._stacks: dict[str, torch.Tensor] = {}

    def matrix(self, name: str, parts: list[Part]) -> Matrix:
        """The matrix called `name`, made of the rows of `parts` (equal columns of all), stored as the schemes
        say."""
        rows, in_features = _shape(parts)
        scheme = self._scheme(name, parts)
        if scheme is None:
            assert self.stored is not None
            packed = self.stored.matrix(parts)
            assert packed is not None
            return packed
        if self.checkpoint is None:
            return scheme.pack(None, rows, in_features)
        matrix = scheme.learned(_key(name, parts)) if isinstance(scheme, LearnedScheme) else None
        if matrix is None:
            pieces = [self._stored(part).to(self.where) for part in parts]
            weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            matrix = scheme.pack(weight, rows, in_features)
        elif (matrix.out_features, matrix.in_features) != (rows, in_features):
            raise ValueError(
                f"{self.model}: {name} was calibrated as {matrix.out_features} x {matrix.in_features}, but "
                f"this rank holds {rows} x {in_features}: its columns are cut in blocks of another size; use "
                "another tp, or weights 'dense'"
            )
        if self.native:
            matrix.interleave()
        return matrix

    def block(self, name: str, part: Part) -> int:
        """How many columns of the matrix called `name`, made of `part`, are stored together."""
        scheme = self._scheme(name, [part])
        if scheme is None:
            assert self.stored is not None
            return self.stored.block(part) or 1
        return scheme.pack(None, *_shape([part])).format.block

    def table(self, part: Part) -> Maybe | PackedMatrix:
        """The embedding table: packed where it is stored so, else dense and not counted."""
        if self.stored is not None and (packed := self.stored.matrix([part])) is not None:
            return packed
        return self.tensor(part.name)

    def vector(self, parts: list[Part]) -> Maybe:
        """The parts of vectors, joined; counted."""
        self.small_bytes += sum(part.rows.size for part in parts) * self.act
        if self.checkpoint is None:
            return None
        return torch.cat([self._vector(part) for part in parts]).to(self.where, self.dtype)

    def norm(self, name: str, width: int, kind: str) -> NormWeights:
        """Weight and, for LayerNorm (kind "layer"), bias."""
        weight = self.vector([Part(name, whole(width))])
        bias = self.vector([Part(name + "_bias", whole(width))]) if kind == "layer" else None
        return NormWeights(weight, bias)

    def tensor(self, name: str) -> Maybe:
        """A dense tensor in the activations' dtype; not counted."""
        if self.checkpoint is None:
            return None
        return self._widened(name).to(self.where, self.dtype)

    def _scheme(self, name: str, parts: list[Part]) -> WeightScheme | None:
        """What stores the matrix called `name`; None where it stays as the checkpoint stores it."""
        if self.scheme is not None and self.scheme.applies(name, *_shape(parts)):
            return self.scheme
        if self.stored is not None and all(self.stored.block(part) is not None for part in parts):
            return None
        return self.dense

    def _vector(self, part: Part) -> torch.Tensor:
        """The part of a vector, as the scheme wants it where it has a say."""
        learned = self.scheme.vector(part.name) if isinstance(self.scheme, LearnedScheme) else None
        return self._stored(part) if learned is None else learned[part.rows.start : part.rows.stop]

    def _stored(self, part: Part) -> torch.Tensor:
        """The part of the checkpoint's tensor in float32. ValueError where that has another shape."""
        found = self._entry(part.name)
        if tuple(found.shape) != part.shape:
            raise ValueError(
                f"{self.model}: {part.name} is {tuple(found.shape)}, but its spec says {part.shape}"
            )
        found = found[part.rows.start : part.rows.stop]
        return found if part.columns is None else found[:, part.columns.start : part.columns.stop]

    def _entry(self, name: str) -> torch.Tensor:
        """The checkpoint's tensor in float32; `name#j` is entry j of a stack of experts."""
        base, _, entry = name.partition("#")
        if not entry:
            return self._widened(base)
        if base not in self._stacks:
            if len(self._stacks) == 3:  # gate, up and down of the layer before
                self._stacks.clear()
            self._stacks[base] = self._widened(base)
        return self._stacks[base][int(entry)]

    def _widened(self, name: str) -> torch.Tensor:
        assert self.checkpoint is not None
        found = self.checkpoint.tensors.get(name)
        if found is None:
            raise ValueError(f"{self.checkpoint.path} has no tensor {name!r}, which {self.model} needs")
        return found.float()


def _shape(parts: list[Part]) -> tuple[int, int]:
    """Rows and columns of the matrix made of the rows of `parts`."""
    assert parts[0].columns is not None
    return sum(part.rows.size for part in parts), parts[0].columns.size


def _key(name: str, parts: list[Part]) -> str:
    """What tells the matrix called `name` from others: experts of a layer share their name."""
    return name + "".join(parts[0].name.partition("#")[1:])
