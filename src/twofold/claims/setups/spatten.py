"""The claim of arXiv:2012.09852 on memory accesses: GPT-2 medium, 992 tokens in and 32 out, the source's
own workload, whose shares of tokens, heads and values the technique has. Its average also covers BERT,
which does not generate and is pruned differently."""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds

_LOAD = BatchLoad(1, 992, 32)


def dram() -> Outcome:
    """Bytes that attention reads and writes with the fp16 cache over those with SpAtten."""
    plain, pruned = _moved([]), _moved(["spatten"])
    return Outcome(
        (plain / pruned, plain / pruned),
        "keys: half the tokens over all layers, 4 of 16 bits; values: 30 % of those, 8 of 16 bits; the "
        "prompt is read whole, once; the source's average also covers BERT",
        f"counted: GPT-2 medium in fp16, {_LOAD.prompt} tokens in, {_LOAD.output} out: {plain / 1e9:.2f} GB "
        f"and {pruned / 1e9:.2f} GB",
    )


def _moved(techniques: list[str]) -> float:
    engine = predicted_engine("gpt2-medium", "a100-80g-sxm", techniques, _LOAD)
    predicted_seconds(engine, _LOAD)
    return engine.device.totals["attention"].bytes_moved
