"""SmoothQuant: the fold into norms, the rounding of activations, native against reference."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_checkpoint, tiny_engine

from twofold.devices.cpu_device import CpuDevice
from twofold.kernels.cpu import native
from twofold.kernels.reference.linear import linear as reference_linear
from twofold.techniques.registry import make_technique
from twofold.techniques.weights.int8_matrix import Int8Matrix, TokenInt8, pack_rows


def use(**params: object) -> list[dict[str, object]]:
    return [{"name": "smoothquant", "params": params}]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_norm_times_weight_is_what_it_was(family: str) -> None:
    smooth, plain = (tiny_engine(family, techniques=t).runner.model for t in (use(alpha=0.8), []))
    for ours, theirs in zip(smooth.layers, plain.layers, strict=True):
        assert ours.attention is not None
        assert theirs.attention is not None
        first, second = (
            layer.attention.qkv.widen(torch.float32) * layer.attention_norm.weight for layer in (ours, theirs)
        )
        assert not torch.allclose(ours.attention_norm.weight, theirs.attention_norm.weight)
        assert (first - second).abs().max() < 0.02 * second.abs().max()
        if theirs.attention_norm.bias is not None:
            ratio = ours.attention_norm.weight / theirs.attention_norm.weight
            assert torch.allclose(ours.attention_norm.bias, theirs.attention_norm.bias * ratio)
    moe = tiny_checkpoint(family).spec.experts is not None
    same = torch.equal(smooth.layers[0].mlp_norm.weight, plain.layers[0].mlp_norm.weight)
    assert same == moe, "a norm that a router reads stays, others do not"


def test_alpha_moves_outliers_into_the_weights() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 128, generator=generator)
    x[:, 5] *= 80
    weight = torch.randn(32, 128, generator=generator)
    wanted, errors = x @ weight.T, {}
    for alpha in (0.0, 0.5):
        columns, largest = weight.abs().amax(0), x.abs().amax(0)
        s = make_technique("smoothquant", {"alpha": alpha})._scales(largest, weight)  # type: ignore[attr-defined]
        assert torch.allclose(s, largest**alpha / columns ** (1 - alpha))
        tensors = pack_rows(weight * s, per_tensor=False)
        matrix = Int8Matrix(32, 128, tensors, TokenInt8(), {"products": 0})
        y = reference_linear(matrix.op(64, "fp32"), x / s, matrix)
        errors[alpha] = float((y - wanted).square().mean())
    plain = Int8Matrix(32, 128, pack_rows(weight, per_tensor=False), TokenInt8(), {"products": 0})
    unsmoothed = float((reference_linear(plain.op(64, "fp32"), x, plain) - wanted).square().mean())
    assert errors[0.5] < 0.2 * unsmoothed


@pytest.mark.parametrize("scale", [0.0, 0.01])
def test_activations_are_rounded_token_by_token(scale: float) -> None:
    x = torch.tensor([[1.0, -2.54, 0.004], [0.0, 0.0, 0.0]])
    got = TokenInt8(scale).round(x)
    step = scale or 0.02
    assert torch.allclose(got[0], torch.tensor([50 if not scale else 100, -127.0, 0]) * step)
    assert got[1].abs().max() == 0


@pytest.mark.skipif(native() is None, reason="native kernels are not installed")
@pytest.mark.parametrize("scale", [0.0, 0.02])
@pytest.mark.parametrize("tokens", [1, 3, 17])
@pytest.mark.parametrize("cols", [96, 576])
def test_native_equals_reference(cols: int, tokens: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(cols + tokens)
    x, weight = (torch.randn(n, cols, generator=generator) for n in (tokens, 48))
    matrix = Int8Matrix(48, cols, pack_rows(weight, per_tensor=False), TokenInt8(scale), {"products": 0})
    op = matrix.op(tokens, "fp32")
    wanted = reference_linear(op, x, matrix)
    matrix.interleave()
    assert matrix.strips is not None
    assert matrix.allocated == matrix.nbytes
    module = native()
    before = module.isa()
    try:
        for isa in module.supported_isas():
            module.use_isa(isa)
            got = CpuDevice(kernels="native", threads=2).execute(op, x, matrix)
            assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-3 * float(wanted.abs().max()))
    finally:
        module.use_isa(before)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": 1.5}, "alpha must lie between 0 and 1"),
        ({"weights": "per_chanel"}, "weights: 'per_chanel' is unknown.*per_channel"),
        ({"activations": "static"}, "activations: 'static' is unknown"),
    ],
)
def test_parameters_are_checked(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("smoothquant", params)


@pytest.mark.parametrize("activations", ["per_token", "per_tensor"])
def test_weights_per_tensor_share_a_scale(activations: str) -> None:
    engine = tiny_engine(techniques=use(weights="per_tensor", activations=activations))
    attention = engine.runner.model.layers[0].attention
    assert attention is not None
    assert len(attention.out.tensors["scales"].unique()) == 1
    assert (attention.out.activations.rounding.scale > 0) == (activations == "per_tensor")  # type: ignore
