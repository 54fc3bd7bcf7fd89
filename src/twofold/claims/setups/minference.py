"""Claims of arXiv:2407.02490 on speed: prompts of up to a million tokens through LLaMA-3-8B on one A100-80GB.

The source reads a prompt layer by layer in one pass, and moves the cache of a million tokens, which one card
cannot hold, to the host; what is timed here is one forward pass over the whole prompt, without an engine that
would refuse it for its memory. Every head has the vertical-slash pattern of the default sizes, which the
source's code falls back to: sizes found for the model are of about the same cost.
"""

from __future__ import annotations

from dataclasses import replace

from twofold.claims.ledger import Outcome
from twofold.devices.registry import make_device
from twofold.models.build import build_model
from twofold.models.catalog import get_spec
from twofold.models.options import ModelOptions
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.attention.minference import MInference

_MODEL, _DEVICE = "llama-3.1-8b", "a100-80g-sxm"


def prefill_seconds(tokens: int, technique: MInference | None) -> float:
    """Modelled seconds of one pass over a prompt of `tokens`, in fp16."""
    spec = replace(get_spec(_MODEL), max_context=tokens)
    scheme = None if technique is None else technique.attending_scheme()
    device = make_device(_DEVICE)
    model = build_model(spec, ModelOptions(precision="fp16", attending=scheme))
    device.resident_bytes = model.weight_bytes()
    device.begin_step()
    device.forward(model, StepInput([Span(tokens, tokens)], tokens, 1))
    return device.end_step().seconds


_NEWER = {100_000: 24.88319 / 10.8158, 300_000: 169.62441 / 31.01629}
_NEWER |= {500_000: 456.78353 / 51.96293, 1_000_000: 1765.56387 / 112.37610}
"""The source's ratios with the sparse kernels of SGLang, by tokens, from the same table."""
_SETTING = "Llama-3.1-8B in fp16 (the same layers) on the roofline model of an A100-80GB SXM, one pass of"


def _speedup(tokens: int) -> Outcome:
    full, sparse = prefill_seconds(tokens, None), prefill_seconds(tokens, MInference())
    ratio = full / sparse
    return Outcome(
        (ratio, ratio),
        f"full attention takes {full:.1f} s, MInference {sparse:.1f} s. Sparse attention is charged at the "
        "efficiency of dense, which the source's kernels in Triton do not reach: with those of SGLang its "
        f"code's table has {_NEWER[tokens]:.2f}",
        f"predicted: {_SETTING} {tokens:,} tokens, 1,000 columns and 6,096 diagonals for every head",
    )


def full_1m() -> Outcome:
    """Seconds of 1,000,000 tokens with full attention."""
    seconds = prefill_seconds(1_000_000, None)
    return Outcome(
        (seconds, seconds),
        "nearly all of it is attention, at the share of the peak that was measured for long prompts; the "
        "source's table has 1,766 s, and what takes the rest there is not known",
        f"predicted: {_SETTING} 1,000,000 tokens",
    )


def prefill_100k() -> Outcome:
    """100,000 tokens."""
    return _speedup(100_000)


def prefill_300k() -> Outcome:
    """300,000 tokens."""
    return _speedup(300_000)


def prefill_500k() -> Outcome:
    """500,000 tokens."""
    return _speedup(500_000)


def prefill_1m() -> Outcome:
    """1,000,000 tokens."""
    return _speedup(1_000_000)
