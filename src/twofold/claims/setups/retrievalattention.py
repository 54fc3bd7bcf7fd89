"""Claims of arXiv:2409.10516 on one RTX 4090: Llama-3-8B, a context of 131072 tokens, one request. The
paper's model extends Llama-3-8B's context; that of the same shape here is Llama-3.1-8B.

The source searches and attends on the host's processor, so that only results cross the link. Here what the
processor reads is charged at the link's bandwidth: the memory of the host is a store that the GPU reaches.
"""

from __future__ import annotations

from functools import cache

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.engine.engine import Engine
from twofold.engine.memory import activation_bytes

_CONTEXT, _CHUNK = 131_072, 2048
_OUTPUTS = 9
_SETTING = "Llama-3.1-8B in fp16 on the roofline model of an RTX 4090"


def _engine(output: int) -> Engine:
    load = BatchLoad(1, _CONTEXT - _OUTPUTS, output)
    return predicted_engine(
        "llama-3.1-8b",
        "rtx-4090",
        ["retrievalattention"],
        load,
        max_num_batched_tokens=_CHUNK,
        max_context=_CONTEXT,
        memory_share=1.0,
    )


@cache
def _seconds(output: int) -> float:
    return predicted_seconds(_engine(output), BatchLoad(1, _CONTEXT - _OUTPUTS, output))


def token_seconds() -> Outcome:
    """Seconds from one generated token to the next."""
    seconds = (_seconds(_OUTPUTS) - _seconds(1)) / (_OUTPUTS - 1)
    return Outcome(
        (seconds, seconds),
        "weights are read in 17 ms. Searches are charged by the bytes that they read over the link; on the "
        "source's processor a walk through a graph waits for memory at every step. Linking new keys into the "
        "graph, which the source leaves out, is in it",
        f"predicted: {_SETTING}, {_CONTEXT} tokens, 2 % of the keys looked at by each search",
    )


def gpu_memory() -> Outcome:
    """Weights, the window and the activations of a step, in GB."""
    engine = _engine(1)
    model = engine.runner.model
    held = model.weight_bytes() + sum(c.sequence_bytes() for c in model.caches)
    held += activation_bytes(model, _CHUNK, 1)
    return Outcome(
        (held / 1e9, held / 1e9),
        "the window of 640 tokens takes 84 MB, where all keys and values would take 17 GB; nearly all is "
        "weights",
        f"counted: {_SETTING}, prompts in parts of {_CHUNK} tokens",
    )
