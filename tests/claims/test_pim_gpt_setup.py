"""PIM-GPT's comparison: set up over its eight models, baselines from a plain roofline of the datasheets."""

from __future__ import annotations

import pytest

from twofold.claims.setups.pim_gpt import (
    BASELINES,
    CLAIMS,
    EAGER,
    MODELS,
    OUTPUT,
    PROMPT,
    Comparison,
    Row,
    compare,
    eager,
    generate,
)
from twofold.devices.machines.pim_gpt import PimGpt
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.engine.memory import DoesNotFitError
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.base import Cost, Op


class Roofline(ModelledDevice):
    """As fast as memory and arithmetic allow, at its rated power."""

    confidence = "datasheet"

    def __init__(self, name: str, bandwidth: float, flops: float, watts: float) -> None:
        super().__init__(idle_watts=watts)
        self.name, self.bandwidth, self.flops, self.memory = name, bandwidth, flops, {"device": 16 * 10**9}

    def charge(self, op: Op, cost: Cost) -> Charge:
        return Charge(max(cost.bytes_moved / self.bandwidth, cost.flop / self.flops), 0.0, "memory")


# NVIDIA T4 datasheet: 320 GB/s, 65 TFLOP/s in half precision, 70 W. Intel ARK, Xeon Gold 6154: six channels
# of DDR4-2666 (128 GB/s), 18 cores at 3.0 GHz with two AVX-512 FMA units (1.7 TFLOP/s), 200 W.
T4 = ("t4", 320e9, 65e12, 70.0)
XEON = ("xeon-gold-6154", 128e9, 1.7e12, 200.0)


def predict_decode(spec: ModelSpec, device: ModelledDevice, prompt: int, output: int) -> tuple[float, float]:
    """Steps at nine contexts between prompt and end, integrated: a step's time is piecewise linear in its
    context."""
    model = build_model(spec, ModelOptions(precision="bf16"))
    points = 9
    seconds = joules = 0.0
    for i in range(points):
        keys = prompt + round((output - 1) * (i + 0.5) / points) + 1
        device.begin_step()
        model.forward(StepInput([Span(1, keys)], num_tokens=1, num_logits=1), device)
        cost = device.end_step()
        assert cost.joules is not None
        seconds += cost.seconds * output / points
        joules += cost.joules * output / points
    return seconds, joules


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(predict_decode, Roofline(*T4), Roofline(*XEON))


def test_all_models_are_compared(comparison: Comparison) -> None:
    """Eight models, four baselines; the ranges are those of the rows."""
    assert [row.model for row in comparison.rows] == list(MODELS)
    assert PROMPT + OUTPUT == 1024
    for baseline in BASELINES:
        low, high = comparison.speedup(baseline)
        assert 1.0 < low < high
        assert low == min(row.speedup(baseline) for row in comparison.rows)
        assert comparison.energy_ratio(baseline)[0] > 1.0


def test_direction_of_the_claims(comparison: Comparison) -> None:
    """Faster and thriftier than both, by far more over eager baselines than over rooflines; same direction as
    the claims."""
    for side in ("gpu", "cpu"):
        assert comparison.speedup(f"{side}_eager")[0] > comparison.speedup(f"{side}_roofline")[0]
        assert comparison.speedup(f"{side}_roofline")[1] < 40
    for claim in CLAIMS:
        outcome = comparison.outcome(claim)
        low, high = outcome.ours
        assert 1.0 < low < high
        assert "roofline" in outcome.how
        assert claim.claimed[0] < claim.claimed[1]
    assert "cache" in comparison.why


def test_bandwidth_bounds_the_roofline_speedup(comparison: Comparison) -> None:
    """Against a roofline no product gains more than the ratio of bandwidths."""
    limit = PimGpt().dram.bank_bandwidth / T4[1]
    assert comparison.speedup("gpu_roofline")[1] < limit


def test_both_versions_of_the_energy_claims() -> None:
    """The two versions of the source give different energy figures and equal speedups; both are kept."""
    by_key = {c.key: c for c in CLAIMS}
    assert by_key["pim-gpt-energy-gpu"].claimed == (123, 383)
    assert by_key["pim-gpt-energy-gpu-v1"].claimed == (339, 1085)
    assert by_key["pim-gpt-energy-cpu"].claimed == (320, 602)
    assert by_key["pim-gpt-energy-cpu-v1"].claimed == (890, 1632)
    assert len(by_key) == len(CLAIMS) == 6


def test_eager() -> None:
    """A queue hides the shorter of host and device; a CPU pays both; extra time burns idle power."""
    spec = get_spec("gpt2-small")
    host = 100 * 12 * EAGER.seconds_per_layer
    assert host == pytest.approx(100 * 78.04 / 6400)
    assert eager(spec, (0.5, 20.0), 100, 10.0, overlapped=True) == (
        host,
        pytest.approx(20.0 + 10.0 * (host - 0.5)),
    )
    assert eager(spec, (9.0, 20.0), 100, 10.0, overlapped=True) == (9.0, 20.0)
    assert eager(spec, (9.0, 20.0), 100, 10.0, overlapped=False)[0] == pytest.approx(9.0 + host)


def test_too_large_a_model_is_refused() -> None:
    """A model that exceeds the banks is refused."""
    with pytest.raises(DoesNotFitError, match=r"of \d\.\d+ GB"):
        generate(get_spec("gpt3-6.7b"), PimGpt(), PROMPT, OUTPUT)


def test_foreign_claim_is_refused(comparison: Comparison) -> None:
    """A claim of another system has no range here."""
    from dataclasses import replace

    with pytest.raises(ValueError, match="not a claim of PIM-GPT"):
        comparison.outcome(replace(CLAIMS[0], key="other"))
    assert Row("m", (1.0, 2.0), (3.0, 8.0), (0, 0), (0, 0), (0, 0)).energy_ratio("gpu_roofline") == 4.0
