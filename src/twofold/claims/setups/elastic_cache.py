"""The claim of arXiv:2407.18121 on speed: LLaVA-1.5-13B, whose language model is that of Llama-2-13B, in fp16
on one A100 with 80 GB, with the lengths of the authors' eval_latency.py: 900 tokens in and 512 out, all
requests at once, a fifth of the cache kept.

Both sides grow their caches by concatenation, as the script does. Its own batch is 8; the paper's figure is
the best of several, so that the outcome is the interval from that batch to the largest whose full cache fits.
"""

from __future__ import annotations

from functools import partial

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, copying_seconds, predicted_engine, predicted_seconds
from twofold.models.catalog import get_spec

_MODEL, _DEVICE = "llama-2-13b", "a100-80g-sxm"
_PROMPT, _OUTPUT = 900, 512
_LONGEST = 1424  # of a sequence, in whole blocks
_RATIO = 0.8
_TECHNIQUE = f"elastic-cache:ratio={_RATIO}"
_BATCHES = (8, 48)
"""The script's, and the largest multiple of it whose full cache fits beside the weights."""


def _copied(share: float, tokens: int) -> float:
    """Bytes of one request that a step copies of a cache with so many tokens: all where the `share` that is
    kept is 1, else that share twice, since every step appends an entry and then takes one out
    (kv_cache.py)."""
    spec = get_spec(_MODEL)
    entries = tokens if share == 1 else 2 * share * tokens
    return 2.0 * 2 * spec.num_layers * spec.kv_dim * entries


def _seconds(techniques: list[str], batch: int) -> float:
    load = BatchLoad(batch, _PROMPT, _OUTPUT)
    limits = {"max_context": _LONGEST, "memory_share": 0.99}
    engine = predicted_engine(_MODEL, _DEVICE, techniques, load, **limits)
    share = 1 - _RATIO if techniques else 1.0
    seconds = predicted_seconds(engine, load) + copying_seconds(engine, load, partial(_copied, share))
    assert not engine.scheduler.num_preempted, "a batch that was to fit does not"
    return seconds


def generation_speed() -> Outcome:
    """Seconds with the full cache over seconds with a fifth of it, prompts included."""
    plain = [_seconds([], batch) for batch in _BATCHES]
    ours = [_seconds([_TECHNIQUE], batch) for batch in _BATCHES]
    ratios = [full / less for full, less in zip(plain, ours, strict=True)]
    shown = ", ".join(
        f"batch {batch}: {full:.1f} s with the full cache, {less:.1f} s with a fifth"
        for batch, full, less in zip(_BATCHES, plain, ours, strict=True)
    )
    return Outcome(
        (min(ratios), max(ratios)),
        "weights are read in every step whatever is cached, so that the gain grows with the batch; scoring "
        "the prompt computes its attention weights a second time. The paper names neither the batch nor the "
        "GPU of its figure",
        f"predicted: Llama-2-13B in fp16 on the roofline model of an A100 SXM 80 GB, {_PROMPT} tokens in, "
        f"{_OUTPUT} out; {shown}",
    )
