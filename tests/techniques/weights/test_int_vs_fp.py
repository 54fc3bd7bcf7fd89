"""The technique: parameters, what it applies to, packed matrices, activations, precision, claims."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from twofold.claims.ledger import resolve
from twofold.claims.setups import int_vs_fp as setups
from twofold.techniques.weights.block_formats import BLOCK_FORMATS, block_format
from twofold.techniques.weights.fidelity import crest_factor, qsnr
from twofold.techniques.weights.int_vs_fp import IntVsFp

ALL = list(BLOCK_FORMATS)
NATIVE = [name for name in ALL if "-g" not in name]


def random(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def test_parameters_from_text() -> None:
    technique = IntVsFp.from_params({"format": "nvfp4", "rotate": "true", "activations": "mxfp8"})
    assert technique == IntVsFp("nvfp4", True, "mxfp8")
    assert technique.label == "int-vs-fp(format=nvfp4, rotate=True, activations=mxfp8)"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"format": "mxint9"}, "int-vs-fp: format: unknown block format 'mxint9'; did you mean 'mxint"),
        (
            {"activations": "nvfp5"},
            "int-vs-fp: activations: unknown block format 'nvfp5'; did you mean 'nvfp4'",
        ),
        (
            {"activations": "int4-g64"},
            "cannot be rounded to int4-g64, a format for weights; use one of mxint8",
        ),
        ({"rotation": True}, "unknown parameter 'rotation'; did you mean 'rotate'"),
    ],
)
def test_mistakes_are_named(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IntVsFp.from_params(params)


def test_applies_to_linear_layers_only() -> None:
    scheme = IntVsFp().weight_scheme()
    for name in (
        "layers.0.qkv",
        "layers.3.o",
        "layers.3.gate_up",
        "layers.3.down",
        "layers.3.experts.gate_up",
    ):
        assert scheme.applies(name, 64, 64)
    for name in ("embed", "lm_head", "layers.3.router", "layers.3.shared_gate"):
        assert not scheme.applies(name, 64, 64)
    assert IntVsFp(lm_head=True).weight_scheme().applies("lm_head", 64, 64)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(24, 64), (5, 100), (3, 7)])
def test_bytes_counted_are_bytes_allocated(name: str, shape: tuple[int, int]) -> None:
    scheme = IntVsFp(name).weight_scheme()
    packed = scheme.pack(random(*shape), *shape)
    assert packed.allocated == packed.nbytes == scheme.pack(None, *shape).nbytes
    assert scheme.pack(None, *shape).allocated == 0
    assert packed.op(3, "fp32").weight_bytes == packed.nbytes
    assert all(t.dtype != torch.float32 or t.numel() == 1 for t in packed.tensors.values())
    assert "weight" not in packed.tensors


@pytest.mark.parametrize("name", ALL)
def test_widens_to_what_the_format_keeps(name: str) -> None:
    w = random(6, 100)
    packed = IntVsFp(name).weight_scheme().pack(w, 6, 100)
    assert torch.equal(packed.widen(torch.float32), block_format(name).round(w))
    assert packed.widen(torch.bfloat16).dtype == torch.bfloat16
    assert packed.widen(torch.float32).shape == (6, 100)


def test_powers_of_two_scales_lose_nothing_in_bfloat16() -> None:
    for name in ("mxint8", "mxfp8", "mxfp4"):
        packed = IntVsFp(name).weight_scheme().pack(random(4, 64), 4, 64)
        assert torch.equal(packed.widen(torch.bfloat16).float(), packed.widen(torch.float32))


@pytest.mark.parametrize("cols", [64, 100])
@pytest.mark.parametrize("name", ["mxint8", "nvint4", "int4-g64"])
def test_rotation_cancels_in_the_product(name: str, cols: int) -> None:
    w, x = random(8, cols), random(5, cols, 1)
    packed = IntVsFp(name, rotate=True).weight_scheme().pack(w, 8, cols)
    product = F.linear(packed.prepare(x), packed.widen(torch.float32))
    plain = IntVsFp(name).weight_scheme().pack(w, 8, cols)
    exact = x @ w.T
    floor = qsnr(exact, F.linear(plain.prepare(x), plain.widen(torch.float32)))
    # What is left is the format's own error, as large with the rotation as without it.
    assert qsnr(exact, product) == pytest.approx(floor, abs=4.0)
    assert floor > 12.0
    assert not torch.allclose(packed.widen(torch.float32), plain.widen(torch.float32), atol=0.1)


@pytest.mark.parametrize("name", NATIVE)
def test_activations_are_rounded_per_token(name: str) -> None:
    packed = IntVsFp("mxint8", activations=name).weight_scheme().pack(random(8, 96), 8, 96)
    x = torch.cat((random(3, 96), 1e4 * random(1, 96, 2)))
    together = packed.prepare(x)
    for i in range(4):
        assert torch.equal(together[i : i + 1], packed.prepare(x[i : i + 1]))
        assert torch.equal(together[i : i + 1], block_format(name).round(x[i : i + 1]))
    assert packed.prepare(x.bfloat16()).dtype == torch.bfloat16


def test_activations_are_left_alone_by_default() -> None:
    x = random(3, 64)
    assert IntVsFp().weight_scheme().pack(None, 8, 64).prepare(x) is x


@pytest.mark.parametrize(
    ("weights", "activations", "expected"),
    [
        ("mxint8", None, "bf16"),
        ("mxint8", "mxint8", "int8"),
        ("mxint4", "mxint8", "int8"),
        ("mxint6", "mxint4", "int8"),
        ("nvint4", "nvint4", "int4"),
        ("nvfp4", "nvfp4", "fp4"),
        ("mxfp4", "mxfp6", "fp6"),
        ("mxfp4", "mxfp8", "fp8"),
        ("mxint8", "mxfp8", "bf16"),
        ("int4-g128", "mxint8", "bf16"),
    ],
)
def test_precision_of_the_product(weights: str, activations: str | None, expected: str) -> None:
    matrix = IntVsFp(weights, activations=activations).weight_scheme().pack(None, 64, 64)
    assert matrix.op(2, "bf16").compute == expected


def test_vector_work_is_counted() -> None:
    out, cols, tokens = 24, 64, 3

    def work(**params: object) -> int:
        return IntVsFp.from_params(params).weight_scheme().pack(None, out, cols).vector_flop(tokens)

    assert work() == 2 * out * cols
    assert work(rotate=True) == 2 * out * cols + tokens * cols * 6
    assert work(activations="mxint8") == tokens * cols * 4 + 2 * tokens * out * 2
    assert work(activations="mxfp8") == tokens * cols * 4 + 2 * out * cols


def test_products_are_counted() -> None:
    scheme = IntVsFp().weight_scheme()
    matrices = [scheme.pack(None, 8, 64), scheme.pack(random(8, 64), 8, 64)]
    assert not any(scheme.counters.values())
    for matrix in matrices:
        matrix.op(1, "fp32")
    assert scheme.counters == {"products": 2}


def test_every_claim_is_set_up_or_says_why_not() -> None:
    keys = [claim.key for claim in IntVsFp.claims]
    assert len(set(keys)) == len(keys)
    for claim in IntVsFp.claims:
        assert bool(claim.setup) != bool(claim.why_not), claim.key
        if claim.setup:
            low, high = resolve(IntVsFp.info.name, claim).ours
            assert math.isfinite(low)
            assert low <= high


def test_headline_directions_hold() -> None:
    assert setups.mxint8_over_mxfp8().ours[0] > 0
    assert setups.mxint6_over_mxfp6().ours[1] < 0
    assert setups.mxint4_over_mxfp4().ours[1] < 0
    low, high = setups.nvint4_over_nvfp4().ours
    assert low < 0 < high
    assert setups.nvint4_over_nvfp4_rotated().ours[0] > 0


def test_samples_have_the_crest_factor_asked_for() -> None:
    for block, quartiles in setups.QUARTILES.items():
        for crest in quartiles:
            assert crest_factor(setups.sample(crest, block), block) == pytest.approx(crest, abs=1e-3)
    with pytest.raises(ValueError, match=r"no sample of blocks of 32 with a crest factor of 1\.5"):
        setups.sample(1.5, 32)
