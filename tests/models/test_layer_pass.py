"""A pass that keeps nothing computes what the model computes, in any chunks, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tests.models.tiny import VOCAB, tiny_hf_dir

from twofold.devices.cpu_device import CpuDevice
from twofold.devices.torch_device import TorchDevice
from twofold.kernels.cpu import native
from twofold.kernels.cpu.cache import NativeCacheScheme
from twofold.models import layer_pass
from twofold.models.build import ModelOptions, build_model
from twofold.models.layer_pass import LayerPass, text_step
from twofold.models.loading import load_checkpoint
from twofold.models.step import StepInput
from twofold.ops.attention import Span

LENGTH = 45


@pytest.mark.parametrize("chunk", [7, 45, 4096])
@pytest.mark.parametrize(("family", "num_layers"), [("llama", 2), ("gemma3", 3), ("gpt2", 0), ("mixtral", 2)])
def test_residual_stream_equals_transformers(
    family: str, num_layers: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_pass, "CHUNK", chunk)
    directory = tiny_hf_dir(family, tmp_path)
    ids = torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1))
    checkpoint = load_checkpoint(str(directory))
    model = build_model(checkpoint.spec, ModelOptions(), checkpoint)
    device = TorchDevice("cpu")
    passing = LayerPass(model, num_layers)
    assert len(passing.layers) == num_layers
    with torch.inference_mode():
        step = StepInput([Span(LENGTH, LENGTH)], LENGTH, 0, ids, torch.arange(LENGTH))
        chunks = passing.begin(step, device)
        passing.run(chunks, device)
        states = [s.x + s.delta if s.pending else s.x for s, _ in chunks]
        passing.end()
    assert all(cache.allocated == 0 for cache in model.caches)
    assert all(
        layer.attention.cache.allocated == 0 for layer in passing.layers if layer.attention is not None
    )
    reference = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        expected = reference.eval()(ids[None], output_hidden_states=True).hidden_states[num_layers][0]
    torch.testing.assert_close(torch.cat(states), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(native() is None, reason="the native kernels are not built here")
@pytest.mark.parametrize("chunk", [16, 4096])
def test_attention_of_a_pass_runs_on_native_kernels(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_pass, "CHUNK", chunk)
    checkpoint = load_checkpoint(str(tiny_hf_dir("llama", tmp_path)))
    ids = torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1))
    states = []
    for plain, device in ((NativeCacheScheme("f32"), CpuDevice()), (None, TorchDevice("cpu"))):
        model = build_model(checkpoint.spec, ModelOptions(plain_cache=plain), checkpoint)
        passing = LayerPass(model, 2)
        for _ in range(2):  # the second pass has tensors of its own
            device.begin_step()
            chunks = passing.begin(text_step(model, ids.tolist()), device)
            passing.run(chunks, device)
            passing.end()
            device.end_step()
        states.append(torch.cat([s.x + s.delta if s.pending else s.x for s, _ in chunks]))
        if plain is not None:
            assert "Attention" not in device.reference_ops
            assert "CacheWrite" not in device.reference_ops
    torch.testing.assert_close(*states, atol=1e-4, rtol=1e-4)


def test_held_bytes_are_those_of_its_tensors(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(tiny_hf_dir("llama", tmp_path)))
    model = build_model(checkpoint.spec, ModelOptions(), checkpoint)
    passing = LayerPass(model, 2)
    with torch.inference_mode():
        ids = torch.arange(LENGTH)
        chunks = passing.begin(StepInput([Span(LENGTH, LENGTH)], LENGTH, 0, ids, ids), TorchDevice("cpu"))
        passing.run(chunks, TorchDevice("cpu"))
    first, second = passing.layers
    assert first.attention is not None
    assert second.attention is not None
    # Both layers use one store.
    assert first.attention.cache.tensors is second.attention.cache.tensors
    stream, ctx = chunks[0]
    assert stream.x is not None
    assert stream.delta is not None
    held = [stream.x, stream.delta, *first.attention.cache.tensors.values()]
    assert model.rotary is not None
    held += ctx.step.rotation(model.rotary, local=False)
    assert passing.held_bytes(LENGTH) == sum(t.numel() * t.element_size() for t in held)
