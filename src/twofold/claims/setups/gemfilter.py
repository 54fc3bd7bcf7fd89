"""Claims of arXiv:2409.17422 on speed and memory: Llama-3.1-8B, a context of 131072 tokens, 1024 of them
kept, on an H100 with 80 GB (appendix C.2), one request.

The source does not say how many tokens it generates there; its code's default is 50. Its baseline sends the
whole prompt through the model in one step; engines of today send it in chunks. Both are set up, and the
outcome is the interval.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.engine.engine import Engine
from twofold.engine.memory import activation_bytes
from twofold.models.layer_pass import CHUNK
from twofold.techniques.attention.gemfilter import GemFilter

_CONTEXT, _OUTPUT, _KEEP = 131_072, 50, 1024
_LOAD = BatchLoad(1, _CONTEXT - _OUTPUT, _OUTPUT)
_SETTING = "Llama-3.1-8B in fp16 on the roofline model of an H100 SXM"


def _full_attention(step: int) -> Engine:
    return predicted_engine("llama-3.1-8b", "h100-sxm", [], _LOAD, max_num_batched_tokens=step)


def _filtered() -> Engine:
    use = f"gemfilter:keep={_KEEP}"
    return predicted_engine("llama-3.1-8b", "h100-sxm", [use], _LOAD, max_num_batched_tokens=CHUNK)


def speedup_over_full_attention() -> Outcome:
    """Time to the last token with full attention over that with GemFilter."""
    filtered = predicted_seconds(_filtered(), _LOAD)
    full = [predicted_seconds(_full_attention(step), _LOAD) for step in (_CONTEXT, CHUNK)]
    ratios = [seconds / filtered for seconds in full]
    return Outcome(
        (min(ratios), max(ratios)),
        f"13 of 32 layers read the whole prompt; full attention takes {min(full):.1f} to {max(full):.1f} s, "
        f"GemFilter {filtered:.1f} s; the source's bars (figure 3) show about 19.4 s and 8.1 s",
        f"predicted: {_SETTING}, {_LOAD.prompt} tokens in, {_OUTPUT} out; full attention reads the prompt "
        f"in one step or in chunks of {CHUNK}",
    )


def memory_under_full_attention() -> Outcome:
    """Share of peak memory that GemFilter saves: weights, cache of the request, activations, the filter
    pass."""
    whole, chunked, filtered = _full_attention(_CONTEXT), _full_attention(CHUNK), _filtered()
    of_pass = GemFilter(keep=_KEEP).prompt_filter().pass_bytes(filtered.runner.model, _LOAD.prompt)
    small = _peak(filtered, CHUNK, _KEEP + _OUTPUT) + of_pass
    large = [_peak(whole, _CONTEXT, _CONTEXT), _peak(chunked, CHUNK, _CONTEXT)]
    saved = [1 - small / size for size in large]
    return Outcome(
        (min(saved), max(saved)),
        "the source's baseline holds more than weights, one cache and activations: its bar shows 63 GB "
        "during generation. It counts the weights of 13 of 32 layers for GemFilter's first pass, where all "
        "stay in memory here",
        f"counted: {_SETTING}; full attention {min(large) / 1e9:.1f} GB with chunks of {CHUNK}, "
        f"{max(large) / 1e9:.1f} GB with the prompt in one step; GemFilter {small / 1e9:.1f} GB",
    )


def memory_under_snapkv() -> Outcome:
    """The same against SnapKV, which cuts the cache of a layer as soon as that has read the prompt."""
    whole, filtered = _full_attention(_CONTEXT), _filtered()
    of_pass = GemFilter(keep=_KEEP).prompt_filter().pass_bytes(filtered.runner.model, _LOAD.prompt)
    small = _peak(filtered, CHUNK, _KEEP + _OUTPUT) + of_pass
    layers = whole.runner.model.spec.num_layers
    uncut = _peak(whole, _CONTEXT, _CONTEXT) - _peak(whole, _CONTEXT, 0)
    large = _peak(whole, _CONTEXT, _KEEP + _OUTPUT) + uncut // layers
    saved = 1 - small / large
    return Outcome(
        (saved, saved),
        "both keep few entries, so that what GemFilter saves are the activations of a prompt in one step, "
        f"which it reads in chunks of {CHUNK} here; in the source it reads the prompt in one step too, and "
        "counts the weights of 13 of 32 layers alone",
        f"counted: {_SETTING}; SnapKV {large / 1e9:.1f} GB, one layer's cache of the prompt in it; GemFilter "
        f"{small / 1e9:.1f} GB",
    )


def _peak(engine: Engine, step: int, cached: int) -> int:
    """Bytes of weights, of a cache of `cached` tokens and of the activations of a step of `step` tokens."""
    model = engine.runner.model
    blocks = -(-cached // engine.scheduler.blocks.block_size)
    cache = blocks * sum(layer.block_bytes() for layer in model.caches)
    return model.weight_bytes() + cache + activation_bytes(model, step, 1)
