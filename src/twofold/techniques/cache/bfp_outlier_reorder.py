"""Block floating point for the KV cache, with the channels of keys sorted so that outliers share blocks.

Source: "Accurate Block Quantization in LLMs with Outliers", arXiv:2403.20137: outliers of keys stay in the
same channels, so that sorting a head's channels by the norm of their rows of W_K (K-sort) collects the
outliers in one block and leaves the others without.

Differs: the source permutes the rows of W_K and W_Q once, at compile time. Rotary embeddings rotate pairs of
channels, each pair at its own speed, and all heads share one table of rotations here. So weights stay as they
are, and keys are permuted when they are stored. The blocks hold the same numbers, and any weight format works
beside it. The two channels of a rotated pair turn into each other: they are sorted by their common norm, and
since one is large where the other is small, they go to the same place of two different blocks (of
SmolLM2-135M's keys, pairs that share a block have twice the error in attention scores). Where keys are
normalised per head, the norm's weight counts too. Values, which have no such channels, fill blocks in their
own order; the source leaves open how they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from twofold.devices.base import Device
from twofold.models.attention import AttentionBlock
from twofold.models.cache import CacheLayer, Heads
from twofold.models.spec import ModelSpec
from twofold.models.transformer import Transformer
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.cache.bfp_cache import BfpCache
from twofold.techniques.requirements import require_keys

_PAPER = "arXiv:2403.20137"
_BITS = (4, 8)


class BfpScheme:
    """Every layer's cache is a BfpCache. counters: entries packed (per layer)."""

    def __init__(self, technique: BfpOutlierReorder, orders: dict[int, torch.Tensor]) -> None:
        self.technique, self.orders = technique, orders
        self.counters = {"entries_packed": 0}

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of `layer`."""
        t = self.technique
        bits = (t.key_mantissa, t.value_mantissa)
        return BfpCache(heads, block_size, bits, t.block, self.orders.get(layer), self.counters)


@dataclass(frozen=True)
class BfpOutlierReorder(Technique):
    """key_mantissa, value_mantissa: bits of an element, sign included, 4 or 8. block: channels that share an
    exponent. sort: sort the channels of keys into blocks by the norm of their weights.
    """

    key_mantissa: int = 4
    value_mantissa: int = 4
    block: int = 32
    sort: bool = True

    info: ClassVar[Info] = Info(
        name="bfp-outlier-reorder",
        title="Accurate Block Quantization in LLMs with Outliers",
        source=_PAPER,
        summary="stores keys and values in block floating point, with key channels sorted by their outliers",
        seams=("cache",),
        lossless=False,
        provides=("cache-storage",),
        excludes=("cache-storage",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "bfp-k-cache",
            "bytes of the cached keys in 8-bit mantissas over those in 4-bit mantissas, blocks of 32",
            (2.0, 2.0),
            "×",
            "the same format with 8-bit mantissas",
            "Llama-2-7B",
            "any",
            f"{_PAPER}, abstract",
            "key_bytes",
        ),
        Claim(
            "bfp-perplexity",
            "perplexity at those savings (no significant degradation: taken as 1)",
            (1.0, 1.0),
            "×",
            "the same format with 8-bit mantissas",
            "Llama-2-7B",
            "any",
            f"{_PAPER}, abstract",
            why_not="needs the model's weights, not available offline; a comparison measures the quality of "
            "the model that it runs, with sort=true and sort=false",
        ),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        for name, bits in (("key_mantissa", self.key_mantissa), ("value_mantissa", self.value_mantissa)):
            if bits not in _BITS:
                fit = min(_BITS, key=lambda b: abs(b - bits))
                raise ValueError(f"{where}: {name} must be 4 or 8, not {bits}; use {fit}")
        if self.block < 2 or self.block % 2:
            raise ValueError(f"{where}: block must be a positive even number, not {self.block}; use 32")

    def check(self, spec: ModelSpec) -> None:
        """Heads must divide into blocks."""
        where = f"technique {self.info.name}"
        require_keys(self.info.name, spec)
        if spec.head_dim % self.block:
            fits = [n for n in range(2, spec.head_dim + 1, 2) if spec.head_dim % n == 0]
            if not fits:
                raise ValueError(
                    f"{where}: heads of {spec.name} are {spec.head_dim} wide, an odd number; leave it out"
                )
            fit = min(fits, key=lambda n: abs(n - self.block))
            raise ValueError(
                f"{where}: heads of {spec.name} are {spec.head_dim} wide, which is not a multiple of "
                f"block={self.block}; use block={fit}"
            )

    def cache_scheme(self) -> BfpScheme:
        """A BfpScheme with these parameters; channels are sorted once the weights were seen."""
        return BfpScheme(self, self.calibration or {})

    @property
    def needs_calibration(self) -> bool:
        """Whether the weights have yet to be seen; no text is read."""
        return self.sort and self.calibration is None

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with the order of each layer's channels, from the weights of `model`."""
        del device, token_ids
        orders = {
            layer.index: channel_order(layer.attention, self.block)
            for layer in model.layers
            if isinstance(layer.attention, AttentionBlock)
        }
        return self.with_calibration(orders)


def channel_order(attention: AttentionBlock, block: int) -> torch.Tensor:
    """Channels of each KV head, those with the largest norm of their rows of W_K (and bias) first: [kv_heads,
    head_dim]. Of rotated pairs, the first channels of `block` pairs come before their second ones."""
    h, spec = attention.cache.heads, attention.spec
    rows = slice(h.heads * h.head_dim, (h.heads + h.kv_heads) * h.head_dim)
    energy = attention.qkv.widen(torch.float32)[rows].square().sum(1)
    if attention.qkv_bias is not None:
        energy = energy + attention.qkv_bias[rows].float().square()
    energy = energy.view(h.kv_heads, h.head_dim)
    if attention.k_norm is not None:  # a whole head is brought to one norm, then channels are weighed
        energy = energy * attention.k_norm.float().square()
    half = (spec.rope_dim if spec.positions == "rope" else 0) // 2
    pairs = _descending(energy[:, :half] + energy[:, half : 2 * half])
    groups = [pairs[:, at : at + block] for at in range(0, half, block)]
    turned = [part for some in groups for part in (some, some + half)]
    return torch.cat((*turned, _descending(energy[:, 2 * half :]) + 2 * half), dim=1)


def _descending(energy: torch.Tensor) -> torch.Tensor:
    """Where the largest of each row are, first to last."""
    return energy.argsort(dim=1, descending=True, stable=True)
