"""Where the weights and the cache of a model lie: the seam of techniques that keep some of them elsewhere
than in the device's memory.

Products count what they read from another memory (`Matrix.space`), so that a modelled device charges for it
while it multiplies. A real device has to have the bytes at hand: a layer's `Fetch` is executed before the
layer runs, and makes sure of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from twofold.kernels.registry import reference
from twofold.ops.base import Cost, Op

if TYPE_CHECKING:
    import torch

    from twofold.models.transformer import TransformerLayer
    from twofold.models.weights import Matrix


@dataclass(frozen=True, slots=True)
class Fetch(Op):
    """Have the weights of the next layer in the device's memory: `nbytes` that come from `source`. What reads
    them counts them, and computes while the rest comes."""

    kind: ClassVar[str] = "fetch"
    nbytes: int
    source: str

    def cost(self) -> Cost:
        """Nothing beside what the products count."""
        return Cost()


@reference(Fetch)
def fetch(op: Fetch, bring: Callable[[], None]) -> None:
    """Run `bring`, which returns when they are there."""
    del op
    bring()


@dataclass(frozen=True, slots=True)
class Fetching:
    """What a layer executes before it runs: the op, and on a real device what brings the weights."""

    op: Fetch
    bring: Callable[[], None] | None = None


class Placement(Protocol):
    """Where weights and cache lie. Technique seam.

    counters: what was placed and fetched.
    """

    counters: dict[str, int]

    def staging_bytes(self) -> int:
        """Bytes of the device's memory through which weights pass that lie elsewhere; known once all layers
        are placed."""

    def allocated(self) -> int:
        """Bytes of tensors that the buffers of a real device are held for."""

    def place(self, layer: TransformerLayer, num_layers: int, *, real: bool) -> None:
        """Say where the matrices and the cache of `layer` lie, one of `num_layers`, and on a real device move
        the matrices there. Layers are placed in order, each before the next is loaded."""

    def finish(self) -> None:
        """All layers of a real device are placed: have what is fetched appear in buffers."""


def retarget(matrix: Matrix, tensors: dict[str, torch.Tensor]) -> None:
    """Let `matrix` lie in `tensors`, which have the types and shapes of its own."""
    from dataclasses import replace

    before = matrix.tensors
    assert before.keys() == tensors.keys(), (before.keys(), tensors.keys())
    strips = matrix.strips
    if strips is not None:
        at = strips.packed.data_ptr()
        (name,) = (n for n, t in before.items() if t.data_ptr() == at)
        matrix.strips = replace(strips, packed=tensors[name])
    matrix.tensors = tensors
