"""Claims of arXiv:2406.15786 on speed and cache: half of the attention sublayers of Llama-2 dropped, 2048
tokens in and 2048 out on one RTX 6000 Ada, in a batch that fills it (section 5).

The card is modelled by the L40S, which has the same chip and 48 GB, and a tenth less memory bandwidth. With
and without dropping the batch is the same: the largest that fits with all layers.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.techniques.layers.llm_drop import LlmDrop

_DEVICE = "l40s"
_PROMPT, _OUTPUT = 2048, 2048
_FOUR_BITS = "int-vs-fp:format=int4-g64"


def _speedup(model: str, weights: list[str], num: int, why: str) -> Outcome:
    """Seconds of a batch with all layers over seconds without `num` attention sublayers."""
    probe = predicted_engine(model, _DEVICE, weights, BatchLoad(1, _PROMPT, _OUTPUT), max_num_seqs=64)
    length = _PROMPT + _OUTPUT
    load = BatchLoad(probe.scheduler.blocks.num_slots // length, _PROMPT, _OUTPUT)
    drop = f"llm-drop:num={num}"
    plans = (weights, [*weights, drop])
    full, cut = (predicted_seconds(predicted_engine(model, _DEVICE, uses, load), load) for uses in plans)
    return Outcome(
        (full / cut, full / cut),
        why,
        f"predicted: {model} on the roofline model of an L40S (same chip, 10 % less bandwidth), "
        f"{load.requests} requests of {_PROMPT} tokens in and {_OUTPUT} out: {full:.0f} s, and {cut:.0f} s "
        f"without {num} of the attention sublayers",
    )


def speedup_llama_2_70b() -> Outcome:
    """Llama-2-70B with 4-bit weights, 40 of 80 attention sublayers dropped."""
    spec = get_spec("llama-2-70b")
    share = spec.attention_parameters() / (spec.attention_parameters() + spec.mlp_parameters(0))
    return _speedup(
        "llama-2-70b",
        [_FOUR_BITS],
        40,
        f"attention sublayers hold {share:.0%} of a layer's weights and little cache (8 KV heads), so "
        "that half of them are not a third of a step that is bound by memory. The source's script "
        "(benchmark_speed.py) launches kernel by kernel, by default for one request: there time goes by the "
        "number of kernels, of which attention has most",
    )


def speedup_llama_2_13b() -> Outcome:
    """Llama-2-13B with 16-bit weights, 20 of 40 attention sublayers dropped."""
    return _speedup(
        "llama-2-13b",
        [],
        20,
        "weights and cache that are no longer read; 40 KV heads make the cache large",
    )


def kv_cache_llama_2_70b() -> Outcome:
    """Cache bytes without 40 of 80 attention sublayers over those with all."""
    spec, tokens = get_spec("llama-2-70b"), 32 * 2048
    sizes = []
    for selection in (None, LlmDrop(num=40).layer_selection()):
        model = build_model(spec, ModelOptions("fp16", selection=selection))
        sizes.append(sum(c.block_bytes() * (tokens // c.block_size) for c in model.caches))
    full, cut = sizes
    return Outcome(
        (cut / full, cut / full),
        "a dropped sublayer has no cache",
        f"counted: 32 sequences of 2048 tokens take {full / 2**30:.0f} GiB, then {cut / 2**30:.0f} GiB",
    )
