"""FlexGen's offloading: shares of the weights and of the KV cache lie in host memory or on disk, and the
weights of a layer are read, for all requests of a step at once, while the layer before it computes.

Source: Sheng et al., "FlexGen: High-Throughput Generative Inference of Large Language Models with a Single
GPU", arXiv:2303.06865. Differences: the shares are of whole layers, in their order, where FlexGen cuts every
tensor; a step runs all of its requests through a layer before the next one, which is FlexGen's zig-zag block
schedule with the running requests as the block; shares are given, not found by linear programming (`twofold
explore` searches); attention over an offloaded cache reads it over the link in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from twofold.models.offloading import Offloaded
from twofold.models.placement import Fetch, Fetching
from twofold.ops.base import DEVICE, DISK, HOST
from twofold.techniques.base import Info, Technique

if TYPE_CHECKING:
    from twofold.models.transformer import TransformerLayer


class LayerShares:
    """The layers up to a share of them in the device's memory, those after up to another in host memory, the
    rest on disk. Rounded to whole layers.

    counters: layers_offloaded (weights that do not lie in the device's memory), cache_layers_offloaded,
    layers_fetched and bytes_fetched (real runs).
    """

    def __init__(self, weights_device: float, weights_host: float, cache_device: float) -> None:
        self.weights_device, self.weights_host = weights_device, weights_host
        self.cache_device = cache_device
        self.counters = {
            "layers_offloaded": 0,
            "cache_layers_offloaded": 0,
            "layers_fetched": 0,
            "bytes_fetched": 0,
        }
        self._stores: dict[str, Offloaded] = {}
        self._largest: dict[str, tuple[int, int]] = {}

    def space(self, index: int, num_layers: int) -> str:
        """Where the weights of layer `index` lie."""
        if index < round(self.weights_device * num_layers):
            return DEVICE
        held = round((self.weights_device + self.weights_host) * num_layers)
        return HOST if index < held else DISK

    def place(self, layer: TransformerLayer, num_layers: int, *, real: bool) -> None:
        """See `models.placement.Placement`."""
        if layer.attention is not None and layer.index >= round(self.cache_device * num_layers):
            layer.attention.cache.space = HOST
            self.counters["cache_layers_offloaded"] += 1
        space = self.space(layer.index, num_layers)
        matrices = layer.matrices()
        if space == DEVICE or not matrices:
            return
        self.counters["layers_offloaded"] += 1
        nbytes = sum(m.nbytes for m in matrices)
        count, largest = self._largest.get(space, (0, 0))
        self._largest[space] = count + 1, max(largest, nbytes)
        bring = None
        if real:
            store = self._stores.setdefault(space, Offloaded(self.counters))
            bring = partial(store.bring, store.put(matrices, space))
        for matrix in matrices:
            matrix.space = space
        layer.fetching = Fetching(Fetch(nbytes, space), bring)

    def finish(self) -> None:
        """See `models.placement.Placement`."""
        for store in self._stores.values():
            store.finish()

    def staging_bytes(self) -> int:
        """Two layers of each memory that weights come from: one runs while the next is read."""
        return sum(min(2, count) * largest for count, largest in self._largest.values())

    def allocated(self) -> int:
        """See `models.placement.Placement`."""
        return sum(store.allocated() for store in self._stores.values())


@dataclass(frozen=True)
class FlexGenOffload(Technique):
    """weights_device, weights_host: shares of the layers whose weights lie in the device's and in host memory
    (the rest on disk). cache_device: share of the layers whose cache lies in the device's memory (the rest in
    host memory)."""

    weights_device: float = 0.0
    weights_host: float = 0.0
    cache_device: float = 1.0

    info: ClassVar[Info] = Info(
        name="flexgen-offload",
        title="FlexGen: High-Throughput Generative Inference of Large Language Models with a Single GPU",
        source="arXiv:2303.06865",
        summary="keeps layers on disk or in host memory and reads each while the one before computes",
        seams=("placement",),
        lossless=True,
        provides=("placement",),
        excludes=("placement",),
        reasons={"placement": "weights and cache lie in one place; name one technique that says where"},
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        for name in ("weights_device", "weights_host", "cache_device"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{where}: {name} is a share from 0 to 1, not {value}")
        both = self.weights_device + self.weights_host
        if both > 1.0 + 1e-9:
            raise ValueError(
                f"{where}: weights_device and weights_host are shares of one whole, but add up to {both}; "
                f"use weights_host={max(0.0, 1.0 - self.weights_device):g} or less"
            )
        if self.weights_device >= 1.0 and self.cache_device >= 1.0:
            raise ValueError(
                f"{where}: with weights_device=1 and cache_device=1 nothing is offloaded; lower one of them, "
                f"or leave {self.info.name} out"
            )

    def placement(self) -> LayerShares:
        """Layers in these shares."""
        return LayerShares(self.weights_device, self.weights_host, self.cache_device)
