"""How cache entries are stored: what the plan says, or what suits the device where it says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.devices.base import Device
from twofold.engine.active import Active, the_one
from twofold.kernels.cpu.cache import NativeCacheScheme, unfit
from twofold.kernels.cpu.cache_formats import FORMATS
from twofold.models.cache import CacheScheme, Heads
from twofold.models.dense_cache import DenseCacheScheme
from twofold.models.fp8_cache import Fp8CacheScheme
from twofold.models.shard import Shard
from twofold.models.spec import ModelSpec
from twofold.models.weights import ACT_BYTES
from twofold.ops.base import Precision
from twofold.plan import Plan

_SAME: dict[Precision, str] = {"fp32": "f32", "fp16": "f16"}
"""The formats that hold what the activations' precision holds."""


def decide_format(
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    actives: Sequence[Active],
    precision: Precision,
    block_size: int,
) -> str:
    """The format of the cache: one of the native ones, the activations' precision, or the name of the
    technique that stores it its own way.

    ValueError where the plan names one that the device, the model or a technique rules out.
    """
    asked = plan.engine.cache_format
    own = the_one([a.technique.info.name if a.cache is not None else None for a in actives])
    if own is not None:
        if asked != "auto":
            raise ValueError(
                f"cache_format {asked!r} and technique {own} both say how the cache is stored; "
                "drop one of them, or use cache_format 'auto'"
            )
        return own
    if asked == Fp8CacheScheme.name:
        if device.real:
            raise ValueError(
                "cache_format 'fp8' can be predicted, not run here; use 'int8', or cache_format 'auto'"
            )
        return asked
    reason = unfit(_heads(spec, plan, precision), block_size)
    if asked == "auto":
        suits = device.cache_format is not None and reason is None and precision == "fp32"
        return device.cache_format if suits and device.cache_format else precision
    if asked == _SAME.get(precision) and device.cache_format is None:
        return precision
    if device.real and precision != "fp32":
        raise ValueError(
            f"cache_format {asked!r} is read in fp32, but activations are in {precision}: "
            "use precision 'fp32', or cache_format 'auto'"
        )
    if reason is not None:
        raise ValueError(f"cache_format {asked!r} does not suit {spec.name}: {reason}; use 'auto'")
    return asked


def cache_scheme(cache_format: str) -> CacheScheme | None:
    """The scheme of a format; None where the cache is in the activations' precision."""
    if cache_format == Fp8CacheScheme.name:
        return Fp8CacheScheme()
    return NativeCacheScheme(cache_format) if cache_format in FORMATS else None


def block_parts(
    plan: Plan, spec: ModelSpec, precision: Precision, block_size: int, cache_format: str
) -> tuple[int, ...]:
    """Bytes of a block of `block_size` tokens in each tensor of a layer's cache (see
    `CacheLayer.block_parts`)."""
    scheme = cache_scheme(cache_format) or DenseCacheScheme()
    return scheme.cache_layer(_heads(spec, plan, precision), block_size, 0).block_parts()


def _heads(spec: ModelSpec, plan: Plan, precision: Precision) -> Heads:
    """The heads of a layer of one rank, as far as their storage goes."""
    shard = Shard(0, plan.parallel.tp)
    latent = spec.latent is not None
    return Heads(
        shard.heads(spec).size,
        shard.kv_heads(spec).size,
        spec.head_dim,
        spec.head_dim,
        spec.scale,
        None,
        None,
        precision,
        ACT_BYTES[precision],
        latent,
    )
