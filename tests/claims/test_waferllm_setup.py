"""WaferLLM's comparisons: single products come out as measured, whole inferences in the claimed direction."""

from __future__ import annotations

import pytest

from twofold.claims.ledger import judge
from twofold.claims.setups import wafer_inference, wafer_products
from twofold.claims.setups.waferllm import CLAIMS, headline
from twofold.devices.machines.waferllm import WaferLlm

BY_KEY = {claim.key.removeprefix("waferllm-"): claim for claim in CLAIMS}


def test_single_products_are_as_measured() -> None:
    """Within 11 % of table 6's times on both machines; the headline is the claim's own figure."""
    for size, wafer, gpu in ((16384, 1.2e-6, 0.336e-3), (32768, 2.03e-6, 1.231e-3)):
        op = wafer_products.product(size)
        assert wafer_products.seconds(wafer_products.best_wafer(size), op) == pytest.approx(wafer, rel=0.11)
        assert wafer_products.seconds(wafer_products.gpu(), op) == pytest.approx(gpu, rel=0.11)
    assert wafer_products.gemv(BY_KEY["gemv"]).ours[0] == headline(WaferLlm())
    for key in ("gemv", "gemv-16k"):
        claim = BY_KEY[key]
        assert judge(claim.claimed, wafer_products.gemv(claim).ours, "x")[0] == "reproduced"


def test_other_algorithms_are_slower() -> None:
    """On the same cores, for tokens and for prompts; SUMMA, which routes at every core, is the slowest."""
    assert wafer_products.gemv_pipeline().ours[0] > 4
    summa, cannon = (wafer_products.gemm(BY_KEY[key]).ours[0] for key in ("gemm-summa", "gemm-cannon"))
    assert summa > cannon > 1
    assert wafer_products.gemv_8().ours[0] > 20
    assert wafer_products.gemv_energy().ours[0] > 10


def test_a_request_is_faster_on_the_wafer() -> None:
    """Against one A100 by more than against eight; its whole output by more than its prompt."""
    prompt, both = (wafer_inference._on_wafer("llama-3.1-8b", 512, n, 360, 660).seconds for n in (1, 65))
    gpu = [wafer_inference._on_gpus("llama-3.1-8b", 512, n, 8).seconds for n in (1, 65)]
    assert (gpu[1] - gpu[0]) / (both - prompt) > max(1, gpu[0] / prompt)
    assert wafer_inference.capacity().ours == (360, 375)
