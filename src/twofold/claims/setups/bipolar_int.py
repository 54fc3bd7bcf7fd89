"""Claims of arXiv:2409.17870 on speed: weights of 1 bit and activations of 2, the least that it has, on one
RTX 3090, whose matrix units multiply single bits four times as fast as int4."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.models.catalog import get_spec
from twofold.ops.linear import Linear
from twofold.techniques.weights.bipolar_int import BipolarInt
from twofold.techniques.weights.block_formats import block_format

_MODEL, _DEVICE = "llama-2-7b", "rtx-3090"
_TOKENS = 1024
_WIDTHS = BipolarInt(wbits=1, abits=2)


@cache
def _speedups() -> tuple[float, float]:
    """Of products with the matrices of a layer, over int4 on both sides: the least and the largest. Operands
    of both lie there in the widths that are multiplied, as those of CUTLASS do."""
    spec, device = get_spec(_MODEL), make_device(_DEVICE)
    assert isinstance(device, ModelledDevice)
    scheme, fmt = _WIDTHS.weight_scheme(), block_format("mxint4").format
    hidden, ffn = spec.hidden, spec.ffn_hidden
    found = []
    for rows, cols in ((hidden, hidden), (ffn, hidden), (hidden, ffn)):
        ours = replace(scheme.pack(None, rows, cols).op(_TOKENS, "fp16"), vector_flop=0)
        theirs = Linear(_TOKENS, cols, rows, fmt.name, fmt.nbytes(rows, cols), "int4", 2)
        seconds = [device.charge(op, op.cost()).seconds for op in (theirs, ours)]
        found.append(seconds[0] / seconds[1])
    return min(found), max(found)


def product_over_cutlass() -> Outcome:
    """Speed-up over CUTLASS's int4 products."""
    low, high = _speedups()
    return Outcome(
        (high, high),
        "two products of single bits take half the time of one in int4 where arithmetic bounds both, which "
        "is the most that can be gained here; where the source gains more, CUTLASS presumably reaches less "
        "of its peak. Rounding activations and splitting them into bit planes is left out on both sides",
        f"predicted: products of {_TOKENS} tokens with the matrices of Llama-2-7B on the roofline model of "
        f"an RTX 3090, W1A2 over int4 on both sides: {low:.2f}× to {high:.2f}×",
    )


def inference() -> Outcome:
    """Speed-up of reading a prompt over 16 bits."""
    load = BatchLoad(1, _TOKENS, 1)
    ours = f"bipolar-int:wbits={_WIDTHS.wbits},abits={_WIDTHS.abits}"
    limits = {"max_num_batched_tokens": _TOKENS, "max_context": 2 * _TOKENS}
    plain, fast = (
        predicted_seconds(predicted_engine(_MODEL, _DEVICE, uses, load, **limits), load)
        for uses in ([], [ours])
    )
    return Outcome(
        (plain / fast, plain / fast),
        "products take a fraction of their time; attention, norms and the output projection stay in 16 bits",
        f"predicted: Llama-2-7B on the roofline model of an RTX 3090, a prompt of {_TOKENS} tokens: "
        f"{plain * 1e3:.0f} ms in 16 bits, {fast * 1e3:.0f} ms with W1A2",
    )
