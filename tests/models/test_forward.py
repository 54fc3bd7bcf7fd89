"""The forward pass on real tensors equals transformers' for every family, however it is batched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models.tiny import FAMILIES, VOCAB, reference_logits, tiny_hf_dir

from twofold.devices.torch_device import TorchDevice
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheSize
from twofold.models.loading import load_checkpoint
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span

BLOCK = 8
LENGTH = 100


def make_model(directory: Path, num_blocks: int = 32) -> Transformer:
    checkpoint = load_checkpoint(str(directory))
    model = build_model(checkpoint.spec, ModelOptions(block_size=BLOCK), checkpoint)
    for cache in model.caches:
        cache.allocate(CacheSize(num_blocks, BLOCK, 4), torch.device("cpu"))
    return model


def forward(
    model: Transformer, device: TorchDevice, ids: torch.Tensor, start: int, first_block: int = 0
) -> torch.Tensor:
    """Logits of `ids` at positions `start` … through blocks that begin at `first_block`."""
    end = start + len(ids)
    slots = torch.arange(first_block * BLOCK, first_block * BLOCK + end)
    step = StepInput(
        [Span(len(ids), end)], len(ids), len(ids), ids, torch.arange(start, end), slots[start:], [slots], [0]
    )
    device.begin_step()
    logits = model.forward(step, device)
    device.end_step()
    assert logits is not None
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    directory = tiny_hf_dir(family, tmp_path)
    ids = torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1))
    expected = reference_logits(directory, ids.tolist()).softmax(-1)
    model = make_model(directory)
    device = TorchDevice("cpu")
    with torch.inference_mode():
        whole = forward(model, device, ids, 0)
        assert (whole.softmax(-1) - expected).abs().max() < 1e-4
        pieces = [
            forward(model, device, ids[a:b], a, 16) for a, b in ((0, 70), (70, 71), (71, 99), (99, 100))
        ]
        assert (torch.cat(pieces).softmax(-1) - expected).abs().max() < 1e-4
