"""WaferLLM as a machine: what its algorithms, squares and cores change, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from twofold.devices.machine import Machine
from twofold.devices.machines.waferllm import WaferLlm
from twofold.devices.machines.wse2_cannon import Wse2Cannon
from twofold.devices.machines.wse2_pipeline import Wse2Pipeline
from twofold.devices.parts.arithmetic import arithmetic_of, elements_of
from twofold.devices.parts.core import Core
from twofold.devices.parts.vector_unit import Arithmetic
from twofold.devices.wafer_figures import WaferFigures
from twofold.engine.memory import DoesNotFitError
from twofold.ops import (
    Activate,
    AddNorm,
    Attention,
    CacheWrite,
    Copy,
    Embedding,
    ExpertMLP,
    Gather,
    Linear,
    Norm,
    RotaryQKV,
    Sample,
    SparseLinear,
)
from twofold.ops.attention import Span, total_spans
from twofold.ops.base import Op


def linear(inputs: int, outputs: int, tokens: int = 1, fmt: str = "f16") -> Linear:
    return Linear(tokens, inputs, outputs, fmt, 2 * inputs * outputs, "fp16", 2)


def attention(spans: list[tuple[int, int]], heads: int = 32, kv_heads: int = 8, dim: int = 128) -> Attention:
    totals = total_spans(Span(*span) for span in spans)
    return Attention(totals, heads, kv_heads, dim, dim, 4 * kv_heads * dim * totals.keys, "fp16", 2)


def _known(op: Op) -> Arithmetic:
    arithmetic = arithmetic_of(op)
    assert arithmetic is not None
    return arithmetic


def seconds(machine: Machine, op: Op) -> float:
    return machine.charge(op, op.cost()).seconds


def wafer(**changes: Any) -> WaferLlm:
    return WaferLlm(replace(WaferFigures(), **changes))


def test_gemv_by_hand() -> None:
    """Sixteen thousand squared on 720 x 720 cores: tiles of 23 x 23, an instruction a row and two products a
    cycle; trees of 27 groups of 27; the cycles of table 6's 1.2 us within a tenth."""
    machine = wafer(decode_side=720)
    cycles = seconds(machine, linear(16384, 16384)) * 1.1e9
    words = 12
    first, second = 13 * (1 + 5) + 2 * words, 13 * (27 + 5) + 2 * words
    back = words + (719 - 364) + 5 + words  # the root sends one way, then the other
    multiplying, adding = 23 * 12 + 5 * 8, 5 * 5 + 5 * 8
    assert cycles == pytest.approx(multiplying + first + second + back + adding)
    assert cycles / 1.1e9 == pytest.approx(1.2e-6, rel=0.11)


def test_short_vectors_pay_for_their_instructions() -> None:
    """A layer of the source's kernels with 9 (30 in the MLP) elements a core in each dimension: the cores'
    own cycles are of the order of the 3,207 that were measured on a WSE-3 (github.com/MeshInfra/WaferLLM,
    Decode/WSE-3/weak_scaling_figures.ipynb), many of them around vectors."""
    machine = wafer(decode_side=360)
    core, vector = machine.core, 9
    maps = [(vector, vector)] * 6 + [(vector, 30)] * 2 + [(30, vector)]  # Q, K, V, scores, values, O; MLP
    products = sum(core.mapped(*each) for each in maps)
    ops = [Norm(1, 3240, "rms", 2), AddNorm(1, 3240, "rms", 2), RotaryQKV(1, 90, 90, 36, 36, False, 2)]
    elementwise = machine.elementwise(Activate(1, 10800, "silu", True, 2)).seconds * 1.1e9
    elementwise += sum(machine._arithmetic(_known(op), elements_of(op), 360).seconds for op in ops) * 1.1e9
    assert 0.4 * 3207 < products + elementwise < 3207
    assert products > 1.5 * sum(core.cycles(rows * length) for rows, length in maps)


def test_its_algorithms_pay() -> None:
    """Trees beat chains and rings for tokens, interleaving beats Cannon and SUMMA for prompts; what the cores
    multiply costs the same energy."""
    token, prompt = linear(4096, 4096), linear(4096, 4096, 4096)
    mesh, cannon, summa = WaferLlm(), Wse2Cannon(), Wse2Pipeline()
    for op in (token, prompt, attention([(1, 4096)]), attention([(4096, 4096)])):
        assert seconds(mesh, op) < min(seconds(cannon, op), seconds(summa, op))
    spent = [dict(machine.charge(prompt, prompt.cost()).parts) for machine in (mesh, summa)]
    assert spent[0]["array"] == spent[1]["array"] > 0


def test_more_cores_are_no_help_for_small_products() -> None:
    """A token's sums get longer with the square, its products shorter; large matrices want larger squares."""
    small, large = linear(2048, 2048), linear(32768, 32768)
    assert seconds(wafer(decode_side=180), small) < seconds(wafer(decode_side=720), small)
    assert seconds(wafer(decode_side=720), large) < seconds(wafer(decode_side=180), large)


def test_a_batch_shares_its_sums() -> None:
    """Eight tokens take less than eight times one, since their results are summed together."""
    one, eight = linear(4096, 4096), linear(4096, 4096, 8)
    assert seconds(WaferLlm(), one) < seconds(WaferLlm(), eight) < 5 * seconds(WaferLlm(), one)


def test_the_faster_way_is_taken() -> None:
    """Few tokens by GEMV, many by GEMM; never slower than either."""
    machine = WaferLlm()
    for tokens in (1, 100, 2000):
        both = [way(tokens, 4096, 4096).seconds for way in (machine.gemv, machine.gemm)]
        assert seconds(machine, linear(4096, 4096, tokens)) == min(both)
    assert machine.charge(linear(4096, 4096), linear(4096, 4096).cost()).bound == "link"
    assert machine.charge(linear(8192, 8192, 8192), linear(8192, 8192, 8192).cost()).bound == "compute"


def test_grouped_heads_share_keys_not_products() -> None:
    """All query heads are multiplied with the shared keys where those lie."""
    machine = WaferLlm()
    few, many = attention([(1, 8192)], kv_heads=8), attention([(1, 8192)], kv_heads=32)
    assert seconds(machine, few) == seconds(machine, many)
    mixed = attention([(1, 4000), (600, 600)])
    apart = [attention([span]) for span in ((1, 4000), (600, 600))]
    assert seconds(machine, mixed) == pytest.approx(sum(seconds(machine, op) for op in apart))


def test_shifting_moves_a_row() -> None:
    """A new entry pushes one row's share to its neighbour: a hop, not the length of the column."""
    op = CacheWrite(1, 2048, 4096, 2)
    assert seconds(WaferLlm(), op) * 1.1e9 < 10
    assert seconds(WaferLlm(), CacheWrite(64, 2048, 64 * 4096, 2)) > 0


def test_sums_of_elementwise_ops() -> None:
    """Norms and samples wait for a sum over the mesh; additions and rotations do not."""
    machine = WaferLlm()
    sums = machine.mesh.all_reduce(360, 1, "k-tree") / 1.1e9
    assert seconds(machine, Norm(1, 4096, "rms", 2)) > sums
    assert seconds(machine, AddNorm(1, 4096, "rms", 2)) > seconds(machine, Norm(1, 4096, "rms", 2))
    assert seconds(machine, Sample(1, 32000)) > sums
    assert seconds(machine, RotaryQKV(1, 32, 8, 128, 128, False, 2)) < sums
    assert seconds(machine, RotaryQKV(1, 32, 8, 128, 128, True, 2)) > sums
    assert seconds(machine, Gather(1, 4096, 2)) == 0.0
    assert seconds(machine, Embedding(1, 4096, 8192, 2)) < sums
    assert seconds(machine, Embedding(1, 4096, 8192, 2, tables=2)) > seconds(
        machine, Embedding(1, 4096, 8192, 2)
    )


def test_power() -> None:
    """A wafer that multiplies without pause draws its rated power; most of it flows whatever it does."""
    f = WaferFigures()
    machine = WaferLlm()
    assert machine.idle_watts + f.busy_watts == pytest.approx(15e3)
    assert 0.05 < f.busy_watts / f.watts < 0.5
    op = linear(32768, 32768, 32768)
    charge = machine.charge(op, op.cost())
    assert machine.idle_watts + charge.joules / charge.seconds < 15e3


def test_models_beyond_its_memory_are_refused() -> None:
    """Forty gigabytes hold 13 billion 16-bit weights with a cache, not 70 billion."""
    from twofold.claims.setups.inference import inference

    assert WaferLlm().memory["device"] == 850_000 * 48 * 1024
    assert inference(WaferLlm(), "llama-2-13b", 64, 2, "plain").first > 0
    with pytest.raises(DoesNotFitError):
        inference(WaferLlm(), "llama-2-70b", 64, 2, "plain")


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (
            linear(64, 64, fmt="q4_0"),
            "multiply dense 16-bit weights, not Linear of q4_0; store the weights as fp16",
        ),
        (replace(linear(64, 64), space="host"), "not in host memory"),
        (replace(linear(64, 64), compute="int8"), "plan with precision fp16"),
        (SparseLinear(1, 64, 64, "f16", 99, "fp16", 2, kept=9), "not SparseLinear"),
        (replace(attention([(1, 10)]), widen_flop=5), "keep a dense cache there"),
        (CacheWrite(1, 128, 64, 2), "keep a dense cache there"),
        (Norm(1, 64, "rms", 4), "16-bit activations, not 4 bytes"),
        (Copy(64, "host", "device"), "cannot execute Copy"),
        (ExpertMLP(1, 1.0, 64, 64, 3, "f16", 64, "fp16", 2), "plan a dense model"),
    ],
)
def test_refusals(op: Op, reason: str) -> None:
    """What the wafer cannot do is refused with the reason and what to do instead."""
    with pytest.raises(ValueError, match=reason):
        WaferLlm().execute(op)


def test_impossible_figures() -> None:
    """Impossible wafers are refused."""
    with pytest.raises(ValueError, match="decode_side is from 2 to 921"):
        wafer(decode_side=1000)
    with pytest.raises(ValueError, match="one phase at least"):
        wafer(phases=0)
    with pytest.raises(ValueError, match="raise watts"):
        wafer(watts=100.0)
    with pytest.raises(ValueError, match="operands of 2 bytes at least"):
        Core(1024, 1)
