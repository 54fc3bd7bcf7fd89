"""The claim of arXiv:2405.04437 on decoding: Yi-6B in fp16 on an A100, 16 requests with contexts of 16384
tokens (figure 9).

Devices here time attention alike with and without block tables. What the source gains over vLLM is the kernel
that it may use: FlashAttention-2's is 2.85 times as fast as vLLM's own in that setting (section 7.2), a
measured ratio of the source that the baseline's attention takes here.
"""

from __future__ import annotations

from typing import NamedTuple

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine
from twofold.devices.mapping import mapping_seconds
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.movement import MapPages

_LOAD = BatchLoad(16, 16_384, 400)
_SLOWER_KERNEL = 2.85
_PAGE = 2 << 20
_SETTING = (
    f"Yi-6B in fp16 on the roofline model of an A100 SXM 80 GB, {_LOAD.requests} contexts of {_LOAD.prompt}"
)


class _Step(NamedTuple):
    """Seconds of a decoding step and of its attention, and of mapping its pages in time of need, per step."""

    seconds: float
    attention: float
    mapping: float


def _step(uses: list[str]) -> _Step:
    engine = predicted_engine(
        "yi-6b-200k", "a100-80g-sxm", uses, _LOAD, max_context=_LOAD.prompt + _LOAD.output
    )
    device, requests = engine.device, _LOAD.requests
    device.begin_step()
    engine.runner.charge(StepInput([Span(1, _LOAD.prompt)] * requests, requests, requests))
    seconds = device.end_step().seconds
    block_size = engine.scheduler.blocks.block_size
    pages = requests * sum(cache.block_bytes() for cache in engine.runner.caches) // _PAGE
    mapping = mapping_seconds(MapPages(pages, _PAGE, pages), gpu=True) / block_size
    return _Step(seconds, device.totals["attention"].seconds, mapping)


def decode_throughput() -> Outcome:
    """A decoding step with vLLM's kernel over one with FlashAttention-2's and mapped pages."""
    paged, ours = _step([]), _step(["vattention"])
    ratio = (paged.seconds + (_SLOWER_KERNEL - 1) * paged.attention) / ours.seconds
    return Outcome(
        (ratio, ratio),
        f"attention is {paged.attention / paged.seconds:.0%} of a step; all of the gain is the faster "
        "kernel. Mapping pages ahead of need costs nothing here; on demand it would add "
        f"{ours.mapping / ours.seconds:.2%}",
        f"predicted: {_SETTING}; the baseline's attention takes {_SLOWER_KERNEL} times as long, as the "
        "source measured its kernel",
    )
