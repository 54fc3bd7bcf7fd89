"""How the queries of a layer attend over its cache: the seam of attention methods.

A cache layer appends a step's new entries and then lets queries attend. An `Attending` stands between: it
replaces the op that attends, or runs a sequence of ops of its own. It sees entries through `CacheLayer.read`,
or through native kernels over the cache's storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twofold.ops.attention import Attention

if TYPE_CHECKING:
    import torch

    from twofold.devices.base import Device
    from twofold.models.cache import CacheLayer, Heads
    from twofold.models.step import StepInput


class Attending:
    """Base of attention methods of one layer. What attends by one op in every step overrides `op`: such steps
    are recorded like any other. What takes several overrides `attend`: it is then kept as one call."""

    @property
    def cost_key(self) -> object:
        """Equal for methods whose ops are equal for equal steps; hashable."""
        return type(self)

    def is_one_op(self, num_tokens: int) -> bool:
        """Whether every step of so many tokens attends by one op, that of `op`."""
        del num_tokens
        return type(self).attend is Attending.attend

    def op(self, plain: Attention, step: StepInput) -> Attention:
        """The op that attends in the place of `plain`, which counts the cache's bytes for attending to
        everything. Its kernels are given what `Attention`'s are."""
        del step
        return plain

    def attend(
        self,
        device: Device,
        cache: CacheLayer,
        step: StepInput,
        plain: Attention,
        q: torch.Tensor | None,
        *new: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """q [T, H, D] to [T, H · v_dim]; None on a modelled device. The step's entries are in the cache, or
        given in `new` (k, v) where the cache stores them afterwards. plain: what would attend to everything,
        as `op` made it."""
        out: torch.Tensor | None = device.execute(plain, q, cache, step, *new)
        return out


class AttendingScheme(Protocol):
    """How the layers of a model attend. Technique seam."""

    def attending(self, heads: Heads, layer: int) -> Attending | None:
        """The method of layer number `layer`; None: plain attention."""
