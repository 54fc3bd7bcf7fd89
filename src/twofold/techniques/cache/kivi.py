"""KIVI: keys quantised per channel and values per token, asymmetrically, the newest left in full precision.

Source: "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv:2402.02750, and
github.com/jy-yuan/KIVI: keys leave the window `residual` at a time and are quantised in groups of `group`
tokens of one channel; values leave one by one and are quantised in groups of `group` channels of one token;
prefill attends in full precision and quantises after.

Differs: with chunked prefill a chunk sees itself and the window in full precision and earlier chunks as they
are stored; scales and zero points are fp16 for every activation type, and codes are chosen for the rounded
ones; heads narrower than `group` are one group of values; drafts enter the cache when they are accepted, and
while they are verified see packed what was packed before the first of them; off native kernels, entries are
widened and then multiplied, where the source's kernel does both at once. A sequence takes blocks for all of
its tokens, also for those in the window, where the source's tensors grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.spec import ModelSpec
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.cache.groups import BITS
from twofold.techniques.cache.kivi_cache import KiviCache
from twofold.techniques.cache.kivi_layout import Layout
from twofold.techniques.requirements import require_keys

_PAPER = "arXiv:2402.02750"
_MODEL = "Llama-2-7B, prompts of 161 and outputs of 338 tokens (means of ShareGPT), residual 32 and 128"
_HARDWARE = "NVIDIA A100 80GB"
_BASELINE = "fp16 cache"


def _claim(key: str, figure: str, low: float, high: float, setup: str) -> Claim:
    source = f"{_PAPER}, abstract and section 4.2.4"
    return Claim(key, figure, (low, high), "x", _BASELINE, _MODEL, _HARDWARE, source, setup)


class KiviScheme:
    """Every layer's cache is a KiviCache.

    block_multiple: block sizes must be multiples of it, so that no group of keys straddles two blocks.
    counters: tokens whose keys, and whose values, were packed, and tokens attended to packed and in full
    precision; of one layer of each kind.
    """

    def __init__(self, bits: int, group: int, residual: int) -> None:
        self.layout = Layout(bits, group, residual)
        self.block_multiple = group
        self.counters = self.layout.counters

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of any layer; ValueError where blocks do not hold whole groups."""
        del layer
        if block_size % self.block_multiple:
            fit = max(1, round(block_size / self.block_multiple)) * self.block_multiple
            raise ValueError(
                f"technique kivi: blocks of {block_size} tokens do not hold whole groups of "
                f"{self.block_multiple}; use block_size={fit}, or leave block_size out"
            )
        return KiviCache(heads, block_size, self.layout)


@dataclass(frozen=True)
class Kivi(Technique):
    """bits: of a stored element, 2, 4 or 8. group: elements that share a scale and a zero point. residual:
    newest tokens whose values stay in full precision (keys: fewer than that), a multiple of `group`."""

    bits: int = 2
    group: int = 32
    residual: int = 128

    info: ClassVar[Info] = Info(
        name="kivi",
        title="KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache",
        source=_PAPER,
        summary="quantises all but the newest keys per channel and values per token, to 2, 4 or 8 bits",
        seams=("cache",),
        lossless=False,
        provides=("cache-storage",),
        excludes=("cache-storage",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _claim(
            "kivi-peak-memory",
            "peak memory, weights included, of the baseline over KIVI's",
            2.6,
            2.6,
            "peak_memory",
        ),
        _claim("kivi-batch", "largest batch over the baseline's (up to)", 4.0, 4.0, "largest_batch"),
        _claim(
            "kivi-throughput", "throughput at the largest batch over the baseline's", 2.35, 3.47, "throughput"
        ),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        if self.bits not in BITS:
            raise ValueError(f"{where}: bits must be one of {', '.join(map(str, BITS))}, not {self.bits}")
        if self.group < 8 or self.group % 8:
            fit = max(8, round(self.group / 8) * 8)
            raise ValueError(f"{where}: group must be a positive multiple of 8, not {self.group}; use {fit}")
        if self.residual < self.group or self.residual % self.group:
            fit = max(1, round(self.residual / self.group)) * self.group
            raise ValueError(
                f"{where}: residual must be a positive multiple of group ({self.group}), "
                f"not {self.residual}; use {fit}"
            )

    def check(self, spec: ModelSpec) -> None:
        """Values of a head must divide into groups."""
        where, dim = f"technique {self.info.name}", spec.head_dim
        require_keys("kivi", spec)
        if dim % 8 == 0 and (dim <= self.group or dim % self.group == 0):
            return
        wide = f"{where}: heads of {spec.name} are {dim} wide, which is not a multiple of"
        fits = [g for g in range(8, dim + 1, 8) if dim % g == 0]
        if not fits:
            raise ValueError(f"{wide} 8; leave kivi out")
        fit = min(fits, key=lambda g: abs(g - self.group))
        raise ValueError(f"{wide} group={self.group}; use group={fit}")

    def cache_scheme(self) -> KiviScheme:
        """A KiviScheme with these parameters."""
        return KiviScheme(self.bits, self.group, self.residual)
