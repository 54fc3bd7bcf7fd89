"""Claims of arXiv:2312.11514: OPT-6.7B in 16 bits, half of it in memory, a token at a time.

The paper's GPU is an RTX 4090 with a PCIe SSD. Against it stands loading every weight from the disk for every
token. What its OPT activates and reads is the paper's: predictors choose about three times the 3 % of neurons
that fire, windows of five tokens hold 24 % of them and leave 2.4 % to be read per token.
"""

from __future__ import annotations

from twofold.claims.ledger import Outcome
from twofold.claims.setups.pim_gpt import EAGER
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan

_MODEL, _DEVICE = "opt-6.7b", "rtx-4090"
_ACTIVE, _READ, _WINDOW = 0.09, 0.024, 0.24
"""Shares of the neurons: chosen by the predictor, read per token, held in memory."""
_PROMPT, _OUTPUT = 128, 64


def _engine(technique: str, behaviour: dict[str, float]) -> Engine:
    plan = Plan.from_dict(
        {
            "model": _MODEL,
            "precision": "fp16",
            "techniques": [technique],
            "behaviour": behaviour,
            "workload": {"requests": 1, "prompt": _PROMPT, "output": _OUTPUT},
            "engine": {"max_num_seqs": 1},
        }
    )
    return build_engine(plan, make_device(_DEVICE), get_spec(_MODEL))


def _flash() -> Engine:
    return _engine(
        f"llm-in-a-flash:active={_ACTIVE},window_share={_WINDOW}",
        {"neurons_active": _ACTIVE, "neurons_loaded": _READ},
    )


def _per_token(engine: Engine) -> float:
    params = SamplingParams(max_tokens=_OUTPUT, ignore_eos=True)
    (request,) = engine.play([(0.0, _PROMPT, params)])
    engine.check_techniques()
    assert request.first_token_time is not None
    assert request.last_token_time is not None
    return (request.last_token_time - request.first_token_time) / (_OUTPUT - 1)


def speed_on_gpu() -> Outcome:
    """Seconds per token with naive loading over those with windows and bundles."""
    naive, ours = _per_token(_engine("flexgen-offload", {})), _per_token(_flash())
    host = get_spec(_MODEL).num_layers * EAGER.seconds_per_layer
    return Outcome(
        (naive / ours, naive / ours),
        "nearly all of ours is reading, at the disk's full rate. The source's figure 1 shows about 2.2 s and "
        "0.1 s: what its management of memory and its framework take is left out here, for want of figures. "
        f"With what an eager framework takes elsewhere ({host * 1e3:.0f} ms a token) the ratio is "
        f"{(naive + host) / (ours + host):.1f}",
        f"predicted: {_MODEL} in fp16 on an RTX 4090 with the catalogue's disk, a token at a time: "
        f"{naive * 1e3:.0f} ms when all layers are read for each, {ours * 1e3:.1f} ms with {_ACTIVE:.0%} of "
        "the neurons active",
    )


def memory() -> Outcome:
    """Bytes of all weights over bytes of weights in memory."""
    engine = _flash()
    whole = build_engine(
        Plan.from_dict({"model": _MODEL, "precision": "fp16", "engine": {"max_num_seqs": 1}}),
        make_device("a100-80g-sxm"),
        get_spec(_MODEL),
    )
    full, held = whole.memory.weights, engine.memory.weights
    return Outcome(
        (full / held, full / held),
        "attention, embedding, predictors and windows of 24 % of the neurons stay in memory",
        f"counted: {full / 1e9:.1f} GB of weights, of which {held / 1e9:.1f} GB are in memory",
    )
