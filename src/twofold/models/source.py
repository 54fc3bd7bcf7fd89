"""Where a model's weights come from while it is put together: a checkpoint, or nothing but shapes."""

from __future__ import annotations

import torch

from twofold.models.context import Maybe, NormWeights
from twofold.models.packed import PackedMatrix
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint
from twofold.models.weights import ACT_BYTES, TORCH_DTYPES, DenseScheme, Matrix, WeightScheme
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

    def matrix(self, name: str, parts: list[tuple[str, int]], in_features: int) -> Matrix:
        """The matrix called `name`, made of the rows of `parts` (tensor name, rows), stored as the schemes
        say."""
        rows = sum(n for _, n in parts)
        scheme: WeightScheme = self.dense
        if self.scheme is not None and self.scheme.applies(name, rows, in_features):
            scheme = self.scheme
        elif self.stored is not None and (packed := self.stored.matrix(parts, in_features)) is not None:
            return packed
        if self.checkpoint is None:
            return scheme.pack(None, rows, in_features)
        pieces = [self._stored(part).to(self.where) for part, _ in parts]
        weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if tuple(weight.shape) != (rows, in_features):
            given = tuple(weight.shape)
            raise ValueError(f"{self.model}: {name} is {given}, but its spec says {(rows, in_features)}")
        matrix = scheme.pack(weight, rows, in_features)
        if self.native:
            matrix.interleave()
        return matrix

    def table(self, name: str, rows: int, width: int) -> Maybe | PackedMatrix:
        """The embedding table called `name`: packed where it is stored so, else dense and not counted."""
        if self.stored is not None and (packed := self.stored.matrix([(name, rows)], width)) is not None:
            return packed
        return self.tensor(name)

    def vector(self, names: list[str], width: int) -> Maybe:
        """The vectors of those names, joined; counted as [width]."""
        self.small_bytes += width * self.act
        if self.checkpoint is None:
            return None
        return torch.cat([self._stored(name) for name in names]).to(self.where, self.dtype)

    def norm(self, name: str, width: int, kind: str) -> NormWeights:
        """Weight and, for LayerNorm (kind "layer"), bias."""
        weight = self.vector([name], width)
        return NormWeights(weight, self.vector([name + "_bias"], width) if kind == "layer" else None)

    def tensor(self, name: str) -> Maybe:
        """A dense tensor in the activations' dtype; not counted."""
        if self.checkpoint is None:
            return None
        return self._stored(name).to(self.where, self.dtype)

    def _stored(self, name: str) -> torch.Tensor:
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
