"""FlightLLM as a device: held to the times that the source's artefact publishes, what sparsity and on-chip
activations change, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.machines.flightllm import FlightLlm, FlightLlmFigures
from twofold.devices.machines.flightllm_vhk158 import FlightLlmVhk158
from twofold.ops import Activate, Attention, BitPlaneLinear, CacheWrite, Linear, LookUpLinear, SparseLinear
from twofold.ops.attention import Span, total_spans
from twofold.ops.base import Precision


def linear(outputs: int, inputs: int, tokens: int = 1, fmt: str = "mxint4") -> Linear:
    return Linear(tokens, inputs, outputs, fmt, outputs * inputs // 2, "int8", 1)


def attention(keys: int, queries: int = 1, compute: Precision = "int8", fmt: str = "int8") -> Attention:
    spans = total_spans([Span(queries, keys)])
    return Attention(spans, 32, 32, 128, 128, 2 * 4096 * keys, compute, 2, format=fmt)


def llama_layer(tokens: int) -> list[Linear]:
    """Products of a layer of Llama-2-7B."""
    return [
        linear(outputs, inputs, tokens)
        for outputs, inputs in ((3 * 4096, 4096), (4096, 4096), (2 * 11008, 4096), (4096, 11008))
    ]


def test_attention_grows_as_in_the_artefact() -> None:
    """Its profiles of a token at 144 and at 1,024 entries differ by 0.717 ms in the matrix engine."""
    machine = FlightLlmVhk158()
    short, long = (machine._cycles(1, 128, keys) + machine._cycles(1, keys, 128) for keys in (144, 1024))
    # 32 layers of 32 heads, shared by four cores at 80 %.
    seconds = 32 * 32 * (long - short) / (225e6 * 3.2)
    assert seconds == pytest.approx(9.527182e-3 - 8.810382e-3, rel=1e-3)


def test_prompts_and_tokens_take_what_the_artefact_prints() -> None:
    """128 tokens of Llama-2-7B on the VHK158: 289.9 ms; one token at 144: 9.28 ms."""
    machine = FlightLlmVhk158()

    def model(tokens: int, keys: int) -> float:
        layer = sum(machine.linear(op).seconds for op in llama_layer(tokens))
        head = machine.linear(linear(32000, 4096)).seconds
        return 32 * (layer + machine.attention(attention(keys, tokens)).seconds) + head

    assert model(128, 128) == pytest.approx(0.2899, rel=0.08)
    assert model(1, 144) == pytest.approx(9.28e-3, rel=0.08)


def test_sparse_blocks_skip_work() -> None:
    """Half of the weights take half of a prompt's time; a share between two patterns counts as the larger."""
    machine = FlightLlm()
    dense = linear(4096, 4096, 128)

    def kept(share: float) -> float:
        size = round(4096 * 4096 * share)
        op = SparseLinear(128, 4096, 4096, "f16", 2 * size, "int8", 1, kept=size)
        return machine.linear(op).seconds

    full = machine.linear(dense).seconds
    assert kept(0.5) == pytest.approx(full / 2)
    assert kept(0.3) == kept(0.5)
    assert kept(0.125) == pytest.approx(full / 8)


def test_one_token_uses_a_quarter_of_the_multipliers() -> None:
    """The buffers yield that many weights; many tokens share them."""
    machine = FlightLlm(replace(FlightLlmFigures(), channel_bandwidth=1e15))
    one, many = (machine.linear(linear(3 * 4096, 4096, tokens)).seconds for tokens in (1, 128))
    assert many == pytest.approx(32 * one)


def test_long_prompts_leave_the_chip() -> None:
    """Activations that the buffers do not hold pass through HBM: visible in the energy, which is HBM's."""
    machine = FlightLlm()
    short, long = (machine.linear(linear(4096, 4096, tokens)).total_joules for tokens in (128, 1024))
    weights = 4096 * 4096 / 2 * machine.figures.hbm_joules
    assert short == pytest.approx(weights)
    assert long == pytest.approx(weights + 1024 * 8192 * machine.figures.hbm_joules)


def test_sixteen_bits_take_twice_the_time() -> None:
    """A DSP multiplies two pairs of 8 bits or one of 16."""
    machine = FlightLlm()
    wide = machine.linear(Linear(128, 4096, 4096, "bf16", 2 * 4096 * 4096, "bf16", 2)).seconds
    assert wide == pytest.approx(2 * machine.linear(linear(4096, 4096, 128)).seconds)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (LookUpLinear(1, 64, 64, "lut", 512, "bf16", 2), "N:M"),
        (BitPlaneLinear(1, 64, 64, "int4", 512, "int1", 2), "N:M"),
        (linear(64, 64, fmt="mxfp4"), "mxint4"),
        (Linear(1, 64, 64, "f32", 16384, "fp32", 4), "plan with precision bf16"),
        (replace(linear(64, 64), space="host"), "host"),
        (attention(64, fmt="fp8"), "fp8"),
        (replace(CacheWrite(1, 64, 128, 2), space="host"), "host"),
    ],
)
def test_refusals(op: Linear, reason: str) -> None:
    """Each says what is wrong, or what to do instead."""
    with pytest.raises(ValueError, match=reason):
        FlightLlm().work(op)


def test_figures_are_checked() -> None:
    """Shares exceed nothing, counts are positive."""
    with pytest.raises(ValueError, match="share"):
        FlightLlmFigures(channel_efficiency=1.2)
    with pytest.raises(ValueError, match="hertz"):
        FlightLlmFigures(hertz=0)


def test_activations_that_the_chip_does_not_hold_pass_the_hbm() -> None:
    """Of a long prompt; those of a token stay."""
    token, prompt = (FlightLlm().elementwise(Activate(n, 11008, "silu", True, 2)) for n in (1, 512))
    assert "dram" not in token.joules
    assert prompt.joules["dram"] > 512 * 11008 * 3 * 2 * FlightLlm().figures.hbm_joules * 0.99
