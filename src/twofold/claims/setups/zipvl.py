"""Claims of arXiv:2410.08584v1 on speed and memory: LongVA-7B, whose language model is Qwen2-7B (of the
shape of Qwen2.5-7B), in fp16 on one A100 with 80 GB, one prompt of 131072 tokens.

The source gives neither the length of its videos in tokens nor the share of them that was important; the
share is that of the technique's behaviour, the length the longest that its model reads.
"""

from __future__ import annotations

from dataclasses import replace

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_seconds
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.memory import activation_bytes
from twofold.models.catalog import get_spec
from twofold.plan import Plan

_MODEL, _DEVICE, _CONTEXT = "qwen2.5-7b", "a100-80g-sxm", 131_072
_LOAD = BatchLoad(1, _CONTEXT - 1, 1)
_SETTING = f"Qwen2-7B in fp16 on the roofline model of an A100 SXM 80 GB, a prompt of {_LOAD.prompt} tokens"


def _engine(techniques: list[str]) -> Engine:
    plan = {
        "model": _MODEL,
        "precision": "fp16",
        "techniques": techniques,
        "workload": _LOAD._asdict(),
        "engine": {"max_num_seqs": 1, "max_num_batched_tokens": _CONTEXT, "max_context": _CONTEXT},
    }
    # LongVA was trained for longer contexts than the model that it begins with.
    spec = replace(get_spec(_MODEL), max_context=_CONTEXT)
    return build_engine(Plan.from_dict(plan), make_device(_DEVICE), spec)


def prefill() -> Outcome:
    """Time to the first token with full attention over that with ZipVL."""
    plain, zipped = (predicted_seconds(_engine(t), _LOAD) for t in ([], ["zipvl"]))
    ratio = plain / zipped
    return Outcome(
        (ratio, ratio),
        "attention shrinks with the square of the share of important tokens; projections and the MLP do not. "
        "The share is that of prose on a small model: in the source's videos tokens repeat each other, and "
        "fewer are important",
        f"predicted: {_SETTING}: {plain:.1f} s, with ZipVL {zipped:.1f} s",
    )


def memory() -> Outcome:
    """Share of weights, cache and activations of the prompt's step that ZipVL saves."""
    plain, zipped = (_held(_engine(t)) for t in ([], ["zipvl"]))
    saved = 1 - zipped / plain
    return Outcome(
        (saved, saved),
        "the cache shrinks to a quarter, weights and the activations of a prompt in one step do not; beside "
        "them the cache of a model with grouped queries is small",
        f"counted: {_SETTING}: {plain / 1e9:.1f} GB, with ZipVL {zipped / 1e9:.1f} GB",
    )


def _held(engine: Engine) -> int:
    model = engine.runner.model
    blocks = -(-_CONTEXT // engine.scheduler.blocks.block_size)
    cache = sum(blocks * c.block_bytes() + c.sequence_bytes() for c in model.caches)
    return model.weight_bytes() + cache + activation_bytes(model, _LOAD.prompt, 1)
