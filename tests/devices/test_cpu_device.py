"""The device `cpu`: which kernels it runs, what it says of them, and how caches are stored on it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tests.devices.fake_native import FakeNative, fake_device
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.devices import cpu_device
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.sampling_params import SamplingParams
from twofold.kernels.cpu import native
from twofold.kernels.cpu.cache import NativeCache
from twofold.models.dense_cache import DenseCache
from twofold.ops.elementwise import Add, Norm

needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built here")


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the extension was not built."""
    monkeypatch.setattr(cpu_device, "native", lambda: None)
    monkeypatch.setattr(cpu_device, "why_missing", lambda: "There was no compiler.")
    cpu_device._warn.cache_clear()


@pytest.mark.usefixtures("missing")
def test_without_native_kernels_auto_warns_once_and_runs() -> None:
    with pytest.warns(UserWarning, match=r"^There was no compiler\.$"):
        device = make_device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = make_device("cpu")
    assert device.settings() == again.settings()
    assert device.settings()["kernels"] == "reference"
    engine = tiny_engine(device=device)
    assert isinstance(engine.runner.caches[0], DenseCache)
    (found,) = engine.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
    (expected,) = tiny_engine().generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
    assert found.token_ids == expected.token_ids
    assert not device.reference_ops


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("kernels", ["native", "native-fp32"])
def test_native_kernels_that_are_asked_for_must_be_here(kernels: Any) -> None:
    with pytest.raises(ValueError, match=rf"kernels '{kernels}' are not here.*There was no compiler"):
        make_device("cpu", kernels=kernels)


def test_reference_kernels_can_be_chosen() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device = make_device("cpu", kernels="reference")
    assert device.settings() == {"kernels": "reference", "threads": torch.get_num_threads()}
    assert device.cache_format is None


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown kernels 'nativ'.*native"):
        CpuDevice(kernels="nativ")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        CpuDevice(kernels="reference", threads=0)


def test_threads_are_those_of_both() -> None:
    before = torch.get_num_threads()
    try:
        device = CpuDevice(kernels="reference", threads=before + 1)
        assert torch.get_num_threads() == device.threads == before + 1
        assert device.settings()["threads"] == before + 1
    finally:
        torch.set_num_threads(before)


def test_ops_without_a_native_kernel_are_counted() -> None:
    device = fake_device(Norm)
    device.begin_step()
    x, weight = torch.randn(2, 8), torch.ones(8)
    expected = torch.nn.functional.rms_norm(x, (8,), weight, 1e-5)
    assert torch.allclose(device.execute(Norm(2, 8, "rms", 4), x, weight, None, 1e-5), expected)
    assert not device.reference_ops
    for _ in range(3):
        assert torch.equal(device.execute(Add(2, 8, 4), x, x), x + x)
    device.native_kernels[Norm] = lambda *_: NotImplemented
    assert torch.allclose(device.execute(Norm(2, 8, "rms", 4), x, weight, None, 1e-5), expected)
    assert device.reference_ops == {"Add": 3, "Norm": 1}
    device.end_step()
    assert device.totals["norm"].calls == 5
    device.reset_totals()
    assert not device.reference_ops
    assert not device.totals


# --- how the cache is stored ---


def native_device() -> CpuDevice:
    """Says that it has native kernels; none of them is called while an engine is built."""
    device = fake_device()
    device.cache_format = "f16"
    return device


def built(device: Any, **changes: object) -> Any:
    checkpoint = tiny_checkpoint()
    return build_engine(
        tiny_plan(**changes), device, checkpoint.spec, checkpoint, calibration=lambda: [5] * 96
    )


def test_native_kernels_store_f16_where_the_plan_leaves_it_open() -> None:
    engine = built(native_device())
    assert engine.derived["cache_format"] == "f16"
    cache = engine.runner.caches[0]
    assert isinstance(cache, NativeCache)
    assert cache.tensors["k"].dtype == torch.float16


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": {"block_size": 8, "max_context": 128, "max_num_seqs": 2}},
        {"precision": "bf16"},
        {"techniques": [{"name": "kivi", "params": {"bits": 4, "group": 16, "residual": 32}}]},
    ],
)
def test_what_native_kernels_do_not_take_stays_as_it_is(changes: dict[str, Any]) -> None:
    engine = built(native_device(), **changes)
    plain = built(CpuDevice(kernels="reference"), **changes)
    assert type(engine.runner.caches[0]) is type(plain.runner.caches[0])
    assert engine.derived["cache_format"] == plain.derived["cache_format"]


@pytest.mark.parametrize("fmt", ["f32", "f16", "int8", "int4"])
def test_a_format_can_be_chosen_and_is_predicted(fmt: str) -> None:
    limits = {"max_num_seqs": 2, "max_context": 128, "cache_format": fmt}
    plan = {"engine": limits, "precision": "fp32"}
    engine = built(CpuDevice(kernels="reference"), **plan)
    (found,) = engine.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
    assert len(found.token_ids) == 4
    predicted = build_engine(tiny_plan(**plan), make_device("h100-sxm"), tiny_checkpoint().spec)
    assert [c.block_bytes() for c in predicted.runner.caches] == [
        c.block_bytes() for c in engine.runner.caches
    ]
    assert sum(c.allocated for c in engine.runner.caches) == engine.memory.cache
    h = engine.runner.caches[0].heads
    per_head = {"f32": 4 * h.head_dim, "f16": 2 * h.head_dim, "int8": h.head_dim + 2}
    if fmt in per_head:
        assert engine.runner.caches[0].block_bytes() == 16 * 2 * h.kv_heads * per_head[fmt]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"techniques": [{"name": "kivi", "params": {"bits": 4, "group": 16, "residual": 32}}]},
            r"'int8' and technique kivi both say how the cache is stored.*'auto'",
        ),
        ({"precision": "bf16"}, r"'int8' is read in fp32, but activations are in bf16: use precision 'fp32'"),
        ({"block": 8}, r"'int8' does not suit .*block size 8 is not a multiple of 16; use 'auto'"),
    ],
)
def test_a_format_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    limits = {"max_context": 128, "max_num_seqs": 2, "cache_format": "int8"}
    if "block" in changes:
        changes, limits = {}, {**limits, "block_size": changes["block"]}
    with pytest.raises(ValueError, match=message):
        built(native_device(), engine=limits, **changes)


# --- with the extension ---


@needs_native
def test_settings_name_instruction_set_and_threads() -> None:
    extension = native()
    assert extension is not None
    settings = CpuDevice(threads=2).settings()
    assert settings == {"kernels": "native", "isa": extension.supported_isas()[0], "threads": 2}
    assert CpuDevice(kernels="native-fp32", threads=1).settings()["kernels"] == "native-fp32"
    assert FakeNative.isa() not in extension.supported_isas()
