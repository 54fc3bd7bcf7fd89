"""Claims of arXiv:2402.02750 on memory, batch and throughput: Llama-2-7B in fp16 on one A100 with 80 GB,
prompts of 161 and outputs of 338 tokens, two bits in groups of 32, residual 32 and 128 (section 4.2.4).

Both sides have the whole memory of the device: the largest batch is the one whose weights, caches and
activations fit. The outcome is the interval between the two residual lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.engine.memory import activation_bytes
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


class _Speed(NamedTuple):
    """Output tokens per second, prompts included in the time, and the share of it in matrix products."""

    rate: float
    products: float


@cache
def _speed(uses: tuple[str, ...]) -> _Speed:
    """The speed of the largest batch."""
    requests = _side(uses).largest_batch()
    load = BatchLoad(requests, _PROMPT, _OUTPUT)
    limits = {"max_num_batched_tokens": _STEP, "max_context": _PROMPT + _OUTPUT, "memory_share": 1.0}
    engine = predicted_engine(_MODEL, _DEVICE, list(uses), load, **limits)
    seconds = predicted_seconds(engine, load)
    assert engine.scheduler.num_preempted == 0, "a batch that was found to fit does not"
    return _Speed(requests * _OUTPUT / seconds, engine.device.totals["linear"].seconds / seconds)


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
    plain = _speed(_BASELINE)
    speeds = [_speed(_kivi(r)) for r in _RESIDUALS]
    ratios = [speed.rate / plain.rate for speed in speeds]
    return Outcome(
        (min(ratios), max(ratios)),
        f"matrix products take {plain.products:.0%} of the time with the fp16 cache and "
        f"{speeds[0].products:.0%} with residual {_RESIDUALS[0]}; they are bound by arithmetic in both and "
        f"gain nothing from a smaller cache; a framework whose steps take the same host time for any batch "
        f"would gain what the batch gains",
        f"predicted: {_SETTING}, all requests at once: {plain.rate:.0f} tokens/s with the fp16 cache, "
        + ", ".join(
            f"{speed.rate:.0f} with residual {r}" for r, speed in zip(_RESIDUALS, speeds, strict=True)
        ),
    )
