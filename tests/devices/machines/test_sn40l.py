"""The SN40L fused and unfused: what streams, what waits, what is launched, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.claims.setups.inference import inference
from twofold.devices.machine import Machine
from twofold.devices.machines.sn40l import Sn40l, Sn40lFigures, Tier
from twofold.devices.machines.sn40l_unfused import Sn40lUnfused
from twofold.engine.build import build_engine
from twofold.engine.memory import DoesNotFitError
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.models.placement import Fetch
from twofold.ops import (
    Activate,
    AllReduce,
    Attention,
    CacheWrite,
    Copy,
    Embedding,
    ExpertMLP,
    Linear,
    Norm,
    Op,
    SparseLinear,
)
from twofold.ops.attention import Span, total_spans
from twofold.plan import Plan


def linear(inputs: int, outputs: int, tokens: int = 1, space: str = "device") -> Linear:
    return Linear(tokens, inputs, outputs, "bf16", 2 * inputs * outputs, "bf16", 2, space)


def attention(queries: int, keys: int, space: str = "device") -> Attention:
    totals = total_spans([Span(queries, keys)])
    return Attention(totals, 32, 32, 128, 128, 4 * 32 * 128 * totals.keys, "bf16", 2, space=space)


def seconds(machine: Machine, op: Op) -> float:
    return machine.charge(op, op.cost()).seconds


def test_tokens_stream_and_prompts_multiply() -> None:
    """One token takes its weights over 85 % of HBM, a long prompt its FLOP over the peak."""
    f = Sn40lFigures()
    one, many = linear(4096, 11008), linear(4096, 11008, 8192)
    assert seconds(Sn40l(), one) == one.weight_bytes / (0.85 * f.hbm.bandwidth)
    assert seconds(Sn40l(), many) == many.cost().flop / f.flop
    assert Sn40l().charge(one, one.cost()).bound == "memory"
    assert Sn40l().charge(many, many.cost()).bound == "compute"


def test_what_fusion_saves() -> None:
    """Intermediates through HBM, above all the scores of a prompt, and a launch an op."""
    fused, unfused = Sn40l(), Sn40lUnfused()
    launch = 3 * unfused.figures.command_seconds
    act = Activate(4096, 11008, "silu", True, 2)
    assert seconds(unfused, act) - launch == act.cost().bytes_moved / unfused.figures.hbm.speed
    assert seconds(fused, act) < seconds(unfused, act) / 2
    prompt, token = attention(4096, 4096), attention(1, 4096)
    assert seconds(unfused, prompt) > 3 * seconds(fused, prompt)
    assert seconds(unfused, token) - seconds(fused, token) > 3 * launch
    for op in (act, prompt, token, linear(512, 512), Embedding(4, 512, 1024, 2), Norm(4, 512, "rms", 2)):
        one, other = (machine.charge(op, op.cost()) for machine in (fused, unfused))
        assert other.seconds > one.seconds
        assert other.joules >= one.joules


def test_long_messages_stream_beside_products() -> None:
    """A sum of a prompt's activations overlaps with its products, one of a token's does not; unfused
    neither."""
    fused, unfused = Sn40l(tp=8), Sn40lUnfused(tp=8)
    ops = linear(4096, 4096, 4096), AllReduce(4096 * 4096 * 2, 8, "tp")
    for machine, hidden in ((fused, True), (unfused, False)):
        machine.begin_step()
        for op in ops:
            machine.execute(op)
        alone = [seconds(machine, op) for op in ops]
        assert machine.end_step().seconds == pytest.approx(max(alone) if hidden else sum(alone))
    assert fused.unit(AllReduce(8192, 8, "tp")) == ""
    with pytest.raises(ValueError, match="it stands alone"):
        Sn40l().execute(AllReduce(64, 2, "tp"))


def test_three_tiers() -> None:
    """What lies in DDR streams from it, and a copy into HBM takes over a TB/s on eight sockets; what is
    fetched is counted once."""
    machine = Sn40l()
    near, far = linear(4096, 4096), linear(4096, 4096, space="host")
    assert seconds(machine, far) == pytest.approx(seconds(machine, near) * 0.85 * 1.8e12 / 125e9)
    assert seconds(machine, attention(1, 999, "host")) > seconds(machine, attention(1, 999))
    assert 8 * 10**9 / seconds(machine, Copy(10**9, "host", "device", "weights")) == pytest.approx(1e12)
    assert seconds(machine, Copy(10**6, "device", "host")) > 0
    assert seconds(machine, Fetch(10**9, "host")) == seconds(Sn40lUnfused(), Fetch(10**9, "host")) == 0.0
    assert machine.memory == {"device": 64 << 30, "host": 3 << 39}
    with pytest.raises(ValueError, match="no memory 'disk'; it has device, host"):
        machine.execute(linear(64, 64, space="disk"))


def test_models_beyond_hbm_spill_to_ddr() -> None:
    """Seventy billion parameters do not fit one socket's HBM, but run from DDR, slower; eight sockets hold
    them."""
    with pytest.raises(DoesNotFitError, match="of 61"):
        inference(Sn40l(), "llama-2-70b", 64, 4, precision="bf16")
    placed = {"name": "flexgen-offload", "weights_device": 0.3, "weights_host": 0.7}
    plan = Plan.from_dict(
        {"model": "llama-2-70b", "techniques": [placed], "workload": {"prompt": 64, "output": 4}}
    )
    engine = build_engine(plan, Sn40l(), get_spec("llama-2-70b"))
    done = engine.play([(0.0, 64, SamplingParams(max_tokens=4, ignore_eos=True))])
    assert done[0].num_output_tokens == 4
    eight = inference(Sn40l(tp=8), "llama-2-70b", 64, 4, precision="bf16")
    assert engine.clock.now() > 10 * eight.seconds


def test_routed_experts_stream() -> None:
    """Weights of the experts that are touched."""
    op = ExpertMLP(2, 2.0, 4096, 14336, 3, "bf16", 3 * 4096 * 14336 * 2, "bf16", 2)
    assert seconds(Sn40l(), op) == 2 * op.expert_bytes / Sn40lFigures().hbm.speed
    assert seconds(Sn40lUnfused(), op) > seconds(Sn40l(), op)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (replace(linear(64, 64), format="q4_0"), "not Linear of q4_0; store the weights as bf16"),
        (SparseLinear(1, 64, 64, "bf16", 99, "bf16", 2, kept=9), "not SparseLinear"),
        (replace(linear(64, 64), compute="int8"), "plan with precision bf16"),
        (replace(attention(1, 9), widen_flop=5), "streams a dense bf16 cache"),
        (CacheWrite(1, 128, 64, 2, pack_flop=9), "keep a dense cache"),
        (ExpertMLP(1, 1.0, 64, 64, 3, "q4_0", 64, "bf16", 2), "store them as bf16"),
        (Copy(64, "disk", "device"), "cannot execute Copy"),
    ],
)
def test_refusals(op: Op, reason: str) -> None:
    """What the chip cannot do is refused with the reason and what to do instead."""
    with pytest.raises(ValueError, match=reason):
        Sn40l().execute(op)


def test_impossible_figures() -> None:
    """Impossible sockets are refused."""
    with pytest.raises(ValueError, match="a share is from 0 to 1"):
        Tier(1, 1.0, 1.5, 0.0)
    with pytest.raises(ValueError, match="more than watts"):
        replace(Sn40lFigures(), watts=10.0)
    with pytest.raises(ValueError, match="no negative time"):
        replace(Sn40lFigures(), command_seconds=-1.0)
