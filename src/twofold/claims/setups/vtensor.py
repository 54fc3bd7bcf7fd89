"""The claim of arXiv:2407.15309 on memory: how much of an A100 with 80 GB is free for others where the cache
takes chunks as it grows, and vLLM would have reserved it.

The abstract names no load. Set up with Yi-6B in fp16 and 1 to 64 conversations of 499 tokens each (the means
of ShareGPT, 161 in and 338 out), in chunks of 2 MiB; the outcome is the interval. vLLM reserves 90 % of the
memory (its default).
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine
from twofold.engine.memory import activation_bytes

_REQUESTS = (1, 64)
_TOKENS = 499
_RESERVED = 0.9


def freed_memory() -> Outcome:
    """Share of the memory that vLLM holds and this leaves free."""
    shares = []
    for requests in _REQUESTS:
        load = BatchLoad(requests, _TOKENS - 1, 1)
        engine = predicted_engine(
            "yi-6b-200k", "a100-80g-sxm", ["vtensor"], load, max_context=4096, max_num_batched_tokens=2048
        )
        model, block_size = engine.runner.model, engine.scheduler.blocks.block_size
        chunks = requests * -(-_TOKENS // block_size) * sum(c.block_bytes() for c in model.caches)
        held = model.weight_bytes() + chunks + activation_bytes(model, 2048, requests)
        shares.append(_RESERVED - held / engine.device.memory["device"])
    return Outcome(
        (min(shares), max(shares)),
        "weights stay; each conversation takes whole chunks of 2 MiB for each layer's keys and values, room "
        f"for {block_size} tokens",
        f"counted: Yi-6B in fp16, {_REQUESTS[0]} to {_REQUESTS[1]} conversations of {_TOKENS} tokens",
    )
