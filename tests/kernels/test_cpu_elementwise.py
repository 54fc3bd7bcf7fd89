"""Native elementwise ops against the reference kernels: every instruction set, odd widths, one and two
threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import twofold.kernels.reference
from twofold.kernels.cpu import native
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import CPU, REFERENCE
from twofold.models.rope import RotaryTables
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.base import Op
from twofold.ops.elementwise import (
    Activate,
    Add,
    AddNorm,
    Embedding,
    Gather,
    Norm,
    RotaryQKV,
    SigmoidGate,
    Softcap,
)

NATIVE = native()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native kernels are not built")
if NATIVE is not None:
    import twofold.kernels.cpu.elementwise  # noqa: F401
SHAPES = [(1, 1), (1, 576), (2, 17), (3, 64), (5, 255), (7, 1536), (33, 100)]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=NATIVE.supported_isas() if NATIVE is not None else ["none"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


@pytest.fixture(params=[1, 2])
def ctx(request: pytest.FixtureRequest, isa: str) -> CpuContext:
    return CpuContext(NATIVE, request.param)


def run(ctx: CpuContext, op: Op, *args: Any) -> Any:
    """What the native kernel computes; it may not touch its arguments."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    before = [t.clone() for t in tensors]
    out = CPU[type(op)](ctx, op, *args)
    assert out is not NotImplemented
    for tensor, copy in zip(tensors, before, strict=True):
        assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True)
    return out


def check(ctx: CpuContext, op: Op, *args: Any, rtol: float = 2e-6, atol: float = 1e-6) -> None:
    assert_close(run(ctx, op, *args), REFERENCE[type(op)](op, *args), rtol=rtol, atol=atol)


@pytest.mark.parametrize(("tokens", "width"), SHAPES)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms(ctx: CpuContext, kind: Any, tokens: int, width: int) -> None:
    x, delta = torch.randn(2, tokens, width) * 3 + 1
    weight, bias = torch.randn(2, width)
    wide = {"rtol": 1e-5, "atol": 1e-5} if width > 1 else {"rtol": 1e-4, "atol": 2e-3}
    check(ctx, Norm(tokens, width, kind, 4), x, weight, None, 1e-5, **wide)
    check(ctx, AddNorm(tokens, width, kind, 4), x, delta, weight, None, 1e-6, **wide)
    if kind == "layer":
        check(ctx, Norm(tokens, width, kind, 4), x, weight, bias, 1e-5, **wide)
        check(ctx, AddNorm(tokens, width, kind, 4), x, delta, weight, bias, 1e-5, **wide)


def test_layer_norm_far_from_zero(ctx: CpuContext) -> None:
    x = torch.randn(3, 575) + 1000
    exact = torch.nn.functional.layer_norm(x.double(), (575,), torch.ones(575).double(), None, 1e-5)
    found = run(ctx, Norm(3, 575, "layer", 4), x, torch.ones(575), None, 1e-5)
    assert_close(found.double(), exact, rtol=1e-4, atol=1e-3)


def test_norms_of_very_large_and_of_no_activations(ctx: CpuContext) -> None:
    x = torch.stack((torch.randn(130) * 1e15, torch.zeros(130)))
    check(ctx, Norm(2, 130, "rms", 4), x, torch.randn(130), None, 1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tokens", "width"), SHAPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("function", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations(ctx: CpuContext, function: str, gated: bool, tokens: int, width: int) -> None:
    x = torch.randn(tokens, width * (2 if gated else 1)) * 4
    op = Activate(tokens, width, function, gated, 4)
    # In float64, because torch's float32 gelu loses digits below zero.
    exact = REFERENCE[Activate](op, x.double()).float()
    assert_close(run(ctx, op, x), exact, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("function", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations_are_accurate_everywhere(isa: str, function: str) -> None:
    """Against float64, also in the tails where a sum with 1 loses all digits; tiny results may vanish."""
    x = torch.cat((torch.linspace(-80, 80, 40001), torch.logspace(-30, 0, 301), -torch.logspace(-30, 0, 301)))
    op = Activate(1, len(x), function, False, 4)
    wide = x.double()
    exact = REFERENCE[Activate](op, wide[None])
    if function == "gelu":
        exact = (wide * 0.5 * torch.special.erfc(-wide * 0.5**0.5))[None]
    if function == "gelu_tanh":
        exact = (wide * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (wide + 0.044715 * wide**3)))[None]
    found = run(CpuContext(NATIVE, 1), op, x[None])
    # The argument of the last exponential is rounded: at most 87 · 6e-8 there.
    rtol = {"gelu": 1e-6, "gelu_tanh": 2e-5, "silu": 1e-6, "relu": 0.0}[function]
    assert_close(found.double(), exact, rtol=rtol, atol=1e-35)
    core = x.abs() < 4
    assert_close(found[0, core].double(), exact[0, core], rtol=2e-6, atol=0)


@pytest.mark.parametrize("function", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations_of_no_numbers(ctx: CpuContext, function: str) -> None:
    x = torch.tensor([[NAN, INF, 1e30, -1e30, 0.0]])
    found = run(ctx, Activate(1, 5, function, False, 4), x)
    assert_close(found, torch.tensor([[NAN, INF, 1e30, 0.0, 0.0]]), equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_sums_gates_and_caps(ctx: CpuContext, tokens: int, width: int) -> None:
    x, y = torch.randn(2, tokens, width) * 20
    check(ctx, Add(tokens, width, 4), x, y, rtol=0, atol=0)
    check(ctx, SigmoidGate(tokens, width, 4), x, torch.randn(tokens, 1) * 10)
    check(ctx, Softcap(tokens, width), x * 5, 30.0, rtol=1e-6, atol=1e-6)


def test_softcap_at_its_limits(ctx: CpuContext) -> None:
    x = torch.tensor([[0.0, 1e-20, -1e-5, 0.6249, -0.6251, 90.0, -1e30, INF, -INF, NAN]])
    exact = REFERENCE[Softcap](Softcap(1, 10), x.double(), 1.0).float()
    assert_close(run(ctx, Softcap(1, 10), x, 1.0), exact, rtol=1e-6, atol=0, equal_nan=True)


def test_a_gate_that_is_no_number_shows(ctx: CpuContext) -> None:
    found = run(ctx, SigmoidGate(3, 2, 4), torch.ones(3, 2), torch.tensor([[0.0], [NAN], [INF]]))
    assert_close(found, torch.tensor([[0.5, 0.5], [NAN, NAN], [1.0, 1.0]]), equal_nan=True)


@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_rows_of_tables(ctx: CpuContext, tokens: int, width: int) -> None:
    table, positions = torch.randn(50, width), torch.randn(20, width)
    ids, places = torch.randint(0, 50, (tokens,)), torch.randint(0, 18, (tokens,))
    plain = Embedding(tokens, width, 4 * width, 4)
    check(ctx, plain, ids, table, 1.0, places, None, rtol=0, atol=0)
    check(ctx, plain, ids, table, 24.0)
    check(ctx, Embedding(tokens, width, 4 * width, 4, 2), ids, table, 1.0, places, positions, 2)
    check(
        ctx, Gather(3, width, 4), torch.randn(tokens, width), torch.tensor([0, tokens - 1, 0]), rtol=0, atol=0
    )


def test_rows_that_do_not_exist_are_nan(ctx: CpuContext) -> None:
    x = torch.randn(4, 5)
    found = run(ctx, Gather(3, 5, 4), x, torch.tensor([3, 4, -1]))
    assert_close(found[0], x[3])
    assert found[1:].isnan().all()
    places = torch.tensor([0, 2])
    found = run(ctx, Embedding(2, 5, 20, 4, 2), torch.tensor([1, 1]), x, 1.0, places, x, 2)
    assert_close(found[0], x[1] + x[2])
    assert found[1].isnan().all()


class Tables(RotaryTables):
    """cos and sin of random angles, other ones for sliding layers."""

    def __init__(self, rotated: int) -> None:
        def table() -> tuple[torch.Tensor, torch.Tensor]:
            angles = torch.randn(64, 1, rotated // 2)
            return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)

        self._global, self._local = table(), table()


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rotated"),
    [(9, 3, 64, 64), (4, 1, 256, 256), (3, 1, 80, 20), (2, 2, 6, 6), (5, 5, 96, 72), (2, 1, 16, 0)],
)
@pytest.mark.parametrize("tokens", [1, 2, 13])
def test_rotation(
    ctx: CpuContext, tokens: int, heads: int, kv_heads: int, dim: int, rotated: int, qk_norm: bool
) -> None:
    op = RotaryQKV(tokens, heads, kv_heads, dim, rotated, qk_norm, 4)
    step = StepInput([Span(tokens, tokens)], tokens, 1, positions=torch.randint(0, 64, (tokens,)))
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim)
    q_norm, k_norm = torch.randn(2, dim) if qk_norm else (None, None)
    tables = Tables(rotated) if rotated else None
    for local in (False, True):
        check(ctx, op, qkv, step, tables, local, q_norm, k_norm, 1e-6, rtol=1e-5, atol=1e-5)


def test_positions_beyond_the_table_are_nan(ctx: CpuContext) -> None:
    op = RotaryQKV(2, 2, 1, 8, 8, False, 4)
    step = StepInput([Span(2, 2)], 2, 1, positions=torch.tensor([63, 64]))
    q, k, v = run(ctx, op, torch.randn(2, 32), step, Tables(8), False, None, None, 1e-6)
    assert q[0].isfinite().all()
    assert k[0].isfinite().all()
    assert q[1].isnan().all()
    assert k[1].isnan().all()
    assert v.isfinite().all()


def test_a_token_is_the_same_in_any_batch(isa: str) -> None:
    """Bit for bit: neither the other tokens nor the threads matter."""
    width = 1000
    x, delta, weight = torch.randn(9, width), torch.randn(9, width), torch.randn(width)
    one, two = CpuContext(NATIVE, 1), CpuContext(NATIVE, 2)
    whole = run(two, AddNorm(9, width, "rms", 4), x, delta, weight, None, 1e-6)[0]
    acts = run(two, Activate(9, width // 2, "gelu", True, 4), x)
    for t in range(9):
        alone = run(one, AddNorm(1, width, "rms", 4), x[t : t + 1], delta[t : t + 1], weight, None, 1e-6)[0]
        assert torch.equal(alone[0], whole[t])
        assert torch.equal(run(two, Activate(1, width // 2, "gelu", True, 4), x[t : t + 1])[0], acts[t])


def test_what_is_not_float32_and_contiguous_is_left_to_the_reference() -> None:
    ctx, x, weight = CpuContext(NATIVE, 1), torch.randn(4, 6), torch.ones(6)
    op = Norm(4, 6, "rms", 4)
    for bad in (x.double(), x.bfloat16(), torch.randn(6, 4).t()):
        assert CPU[Norm](ctx, op, bad, weight, None, 1e-6) is NotImplemented
    assert CPU[Norm](ctx, op, x, weight.half(), None, 1e-6) is NotImplemented
    ids = torch.zeros(4, dtype=torch.int32)
    assert CPU[Embedding](ctx, Embedding(4, 6, 24, 4), ids, x, 1.0) is NotImplemented
    assert CPU[Add](ctx, Add(4, 6, 4), x, x[:1]) is NotImplemented


def test_unknown_names_are_errors() -> None:
    stream = NATIVE.Stream(1)
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        NATIVE.activate(stream, "swish", False, 0, 1, 1, 0)
    with pytest.raises(ValueError, match="unknown norm 'batch'"):
        NATIVE.norm(stream, "batch", 0, 0, 0, 0.0, 1, 1, 0)
