"""Claims of arXiv:2402.02750 on memory, batch and throughput: Llama-2-7B in fp16 on one A100 with 80 GB,
prompts of 161 and outputs of 338 tokens, two bits in groups of 32, residual 32 and 128 (section 4.2.4).

Both sides have the whole memory of the device: the largest batch is the one whose weights, caches and
activations fit. The outcome is the interval between the two residual lengths. Throughput is that of the
source's script (mem_spd_test.py), where both sides grow their caches by concatenation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, copying_seconds, predicted_engine, predicted_seconds
from twofold.engine.memory import activation_bytes
from twofold.models.catalog import get_spec
from twofold.models.transformer import Transformer

_MODEL, _DEVICE = "llama-2-7b", "a100-80g-sxm"
_PROMPT, _OUTPUT = 161, 338
_STEP = 2048
_RESIDUALS = (32, 128)
_BASELINE: tuple[str, ...] = ()
_SETTING = (
    f"Llama-2-7B in fp16 on the roofline model of an A100 SXM 80 GB, {_PROMPT} tokens in, {_OUTPUT} out"
)


def _kivi(residual: int) -> tuple[str, ...]:
    return (f"kivi:bits=2,group=32,residual={residual}",)


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of the comparison: the model with its cache, and the bytes of the device."""

    model: Transformer
    block_size: int
    capacity: int

    def held(self, requests: int) -> int:
        """Bytes of weights, of the caches of `requests` requests at their full length, and of activations."""
        blocks = -(-(_PROMPT + _OUTPUT) // self.block_size)
        per_request = sum(blocks * c.block_bytes() + c.sequence_bytes() for c in self.model.caches)
        return (
            self.model.weight_bytes() + requests * per_request + activation_bytes(self.model, _STEP, requests)
        )

    def largest_batch(self) -> int:
        """The most requests that fit, by bisection."""
        low, high = 0, 2
        while self.held(high) <= self.capacity:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.held(middle) <= self.capacity else (low, middle)
        return low


@cache
def _side(uses: tuple[str, ...]) -> _Side:
    load = BatchLoad(1, _PROMPT, _OUTPUT)
    engine = predicted_engine(_MODEL, _DEVICE, list(uses), load, memory_share=1.0)
    return _Side(engine.runner.model, engine.scheduler.blocks.block_size, engine.memory.capacity)


def _copied(residual: int | None, tokens: int) -> float:
    """Bytes of one request that a step copies with `tokens` cached; residual: None for the fp16 cache.

    The source's code (models/llama_kivi.py) appends a key to those in full precision and a value to as many,
    of which it copies all but the first again, and packs that one behind the packed values; keys are packed
    `residual` at a time. Packed, an element takes 3 of 16 bits.
    """
    spec = get_spec(_MODEL)
    entry = 2.0 * spec.num_layers * spec.kv_dim  # a token's keys, or its values
    if residual is None:
        return 2 * entry * tokens
    whole = tokens % residual + 2 * min(tokens, residual)
    packed = max(0, tokens - residual) + (tokens - tokens % residual) / residual
    return entry * (whole + packed * 3 / 16)


class _Speed(NamedTuple):
    """Output tokens per second, prompts included in the time, and the shares of it in matrix products and in
    copies of the cache."""

    rate: float
    products: float
    copies: float


@cache
def _speed(residual: int | None) -> _Speed:
    """The speed of the largest batch; residual: None for the fp16 cache."""
    uses = _BASELINE if residual is None else _kivi(residual)
    requests = _side(uses).largest_batch()
    load = BatchLoad(requests, _PROMPT, _OUTPUT)
    limits = {"max_num_batched_tokens": _STEP, "max_context": _PROMPT + _OUTPUT, "memory_share": 1.0}
    engine = predicted_engine(_MODEL, _DEVICE, list(uses), load, **limits)
    copies = copying_seconds(engine, load, partial(_copied, residual))
    seconds = predicted_seconds(engine, load) + copies
    assert engine.scheduler.num_preempted == 0, "a batch that was found to fit does not"
    products = engine.device.totals["linear"].seconds
    return _Speed(requests * _OUTPUT / seconds, products / seconds, copies / seconds)


def peak_memory() -> Outcome:
    """Bytes with the fp16 cache over bytes with KIVI, both at the largest batch of the fp16 cache."""
    plain = _side(_BASELINE)
    requests = plain.largest_batch()
    sizes = [_side(_kivi(r)).held(requests) for r in _RESIDUALS]
    ratios = [plain.held(requests) / size for size in sizes]
    return Outcome(
        (min(ratios), max(ratios)),
        f"old entries take 3 bits instead of 16, scales included; residual {_RESIDUALS[0]} reaches the "
        f"claim; {_RESIDUALS[1]}, the default, keeps a quarter of such short requests in full precision",
        f"counted: {_SETTING}, {requests} requests: fp16 {plain.held(requests) / 1e9:.1f} GB, "
        + ", ".join(f"residual {r} {size / 1e9:.1f} GB" for r, size in zip(_RESIDUALS, sizes, strict=True)),
    )


def largest_batch() -> Outcome:
    """Requests that fit with KIVI over those that fit with the fp16 cache."""
    plain = _side(_BASELINE).largest_batch()
    batches = [_side(_kivi(r)).largest_batch() for r in _RESIDUALS]
    return Outcome(
        (min(batches) / plain, max(batches) / plain),
        "the ratio of the caches' bytes, since weights and activations are the same on both sides",
        f"counted: {_SETTING}: {plain} requests with the fp16 cache, "
        + ", ".join(f"{b} with residual {r}" for r, b in zip(_RESIDUALS, batches, strict=True)),
    )


def throughput() -> Outcome:
    """Output tokens per second at the largest batch with KIVI over the same with the fp16 cache."""
    plain = _speed(None)
    speeds = [_speed(r) for r in _RESIDUALS]
    ratios = [speed.rate / plain.rate for speed in speeds]
    return Outcome(
        (min(ratios), max(ratios)),
        f"with the fp16 cache copying takes {plain.copies:.0%} of the time, with residual {_RESIDUALS[0]} "
        f"{speeds[0].copies:.0%}, since packed keys are not copied in every step; matrix products take "
        f"{plain.products:.0%} and {speeds[0].products:.0%}, and gain nothing from a smaller cache",
        f"predicted: {_SETTING}, all requests at once, both caches grown by concatenation as in the source's "
        f"script: {plain.rate:.0f} tokens/s with the fp16 cache, "
        + ", ".join(
            f"{speed.rate:.0f} with residual {r}" for r, speed in zip(_RESIDUALS, speeds, strict=True)
        ),
    )
