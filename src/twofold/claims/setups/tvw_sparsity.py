"""The claim of arXiv:2402.10876 that a roofline can tell: tile-vector-wise sparse against dense products.

The source prunes encoders and convolutional networks. GPT-2 small has the layers of its BERT-base (12 of 768,
MLP of 3072), so that a prompt through GPT-2 stands for a pass of BERT. The abstract gives a mean over models
and sparsities; the outcome is the interval from half to three quarters of the weights removed, the half that
2:4 alone removes being its least.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds

_LOAD = BatchLoad(64, 128, 1)


def over_dense() -> Outcome:
    """Seconds of the dense model over those of the pruned one."""

    def seconds(techniques: list[str]) -> float:
        engine = predicted_engine(
            "gpt2", "a100-40g-sxm", techniques, _LOAD, max_num_batched_tokens=_LOAD.requests * _LOAD.prompt
        )
        return predicted_seconds(engine, _LOAD)

    dense = seconds([])
    times = [dense / seconds([f"tvw-sparsity:sparsity={share}"]) for share in (0.5, 0.75)]
    return Outcome(
        (min(times), max(times)),
        "2:4 products at twice the dense rate, tiles without a cost of their own; what is not a product of "
        "weights (attention, norms, the output projection) stays",
        f"predicted: GPT-2 small in fp16 on the roofline model of an A100, {_LOAD.requests} prompts of "
        f"{_LOAD.prompt} tokens in one step",
    )
