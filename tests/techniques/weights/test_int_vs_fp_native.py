"""The technique on native kernels: in the same bytes, without reference products, to the same text."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.test_engine import prompts
from tests.tiny import tiny_engine

from twofold.devices.cpu_device import CpuDevice
from twofold.devices.torch_device import TorchDevice
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.models.weights import Matrix

pytestmark = pytest.mark.skipif(native() is None, reason="the native kernels are not built")

LIMITS = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "cache_format": "f32"}


def engine_with(params: dict[str, Any], *, native_kernels: bool, family: str = "llama") -> Engine:
    device = CpuDevice(kernels="native-fp32", threads=1) if native_kernels else TorchDevice("cpu")
    limits = LIMITS if native_kernels else {k: v for k, v in LIMITS.items() if k != "cache_format"}
    return tiny_engine(
        family, device=device, engine=limits, techniques=[{"name": "int-vs-fp", "params": params}]
    )


def matrices(engine: Engine) -> list[Matrix]:
    return [m for stage in engine.runner.model.stages for layer in stage for m in layer.matrices()]


def texts(engine: Engine) -> list[list[int]]:
    found = engine.generate(prompts(6, seed=5), SamplingParams(max_tokens=16, ignore_eos=True))
    return [completion.token_ids for completion in found]


@pytest.mark.parametrize(
    "params",
    [
        {"format": "mxint8"},
        {"format": "mxint8", "activations": "mxint8"},
        {"format": "mxint4", "activations": "mxint6", "rotate": True},
        {"format": "nvfp4", "activations": "nvfp4", "rotate": True},
        {"format": "int4-g64", "lm_head": True},
    ],
)
def test_products_are_native_and_say_the_same(params: dict[str, Any]) -> None:
    ours, reference = (engine_with(params, native_kernels=n) for n in (True, False))
    assert all(m.strips is not None for m in matrices(ours))
    assert not any(m.strips is not None for m in matrices(reference))
    model = ours.runner.model
    assert model.allocated() == model.weight_bytes() == reference.runner.model.weight_bytes()
    assert texts(ours) == texts(reference)
    assert "Linear" not in ours.device.reference_ops


def test_formats_without_native_products_run_on_the_reference_kernel() -> None:
    ours, reference = (engine_with({"format": "mxfp8"}, native_kernels=n) for n in (True, False))
    assert all(m.strips is None for m in matrices(ours))
    assert texts(ours) == texts(reference)
    assert ours.device.reference_ops["Linear"] > 0


def test_experts_in_strips_are_widened() -> None:
    ours, reference = (
        engine_with({"format": "mxint6"}, native_kernels=n, family="mixtral") for n in (True, False)
    )
    assert any(m.strips is not None for m in matrices(ours))
    assert ours.runner.model.allocated() == reference.runner.model.weight_bytes()
    assert texts(ours) == texts(reference)
