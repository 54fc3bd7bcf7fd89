"""Weights kept as a checkpoint stores them: their bytes, their values, and when a plan gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernels.blocks import random_blocks

from twofold.engine.weight_format import decide_weights
from twofold.kernels.cpu import native
from twofold.models.gguf_types import widener
from twofold.models.packed import PackedMatrix
from twofold.models.shard import Part, whole
from twofold.models.spec import ModelSpec
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint, StoredTensor
from twofold.plan import Plan

SPEC = ModelSpec("stored", "llama", 1, 64, 4, 2, 16, 96, 64, 128)
needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built")


def tensor(name: str, fmt: str, *shape: int) -> StoredTensor:
    rows = torch.Size(shape[:-1]).numel()
    data = random_blocks(fmt, rows, shape[-1], seed=len(name))
    return StoredTensor(name, fmt, shape, data, widener(fmt))


def checkpoint(path: str = "") -> Checkpoint:
    tensors = [
        tensor("q", "q4_1", 48, 64), tensor("k", "q4_1", 16, 64), tensor("v", "q8_0", 16, 64),
        tensor("experts", "q5_0", 3, 32, 64),
        StoredTensor("plain", "f32", (16, 64), torch.zeros(16 * 64 * 4, dtype=torch.uint8), widener("f32")),
    ]  # fmt: skip
    return Checkpoint(SPEC, {t.name: t for t in tensors}, None, path)


def part(name: str, rows: int, columns: int = 64) -> Part:
    return Part(name, whole(rows), whole(columns))


QKV = [part("q", 48), part("k", 16), part("v", 16)]


@needs_native
def test_predicted_bytes_are_those_that_are_allocated() -> None:
    counted = StoredWeights(checkpoint(), load=False).matrix(QKV)
    held = StoredWeights(checkpoint(), load=True).matrix(QKV)
    assert isinstance(counted, PackedMatrix)
    assert isinstance(held, PackedMatrix)
    assert counted.allocated == 0
    assert counted.nbytes == held.nbytes == held.allocated
    assert counted.op(1, "fp32") == held.op(1, "fp32")


@needs_native
def test_fused_rows_and_entries_of_a_stack_keep_their_values() -> None:
    source = checkpoint()
    stored = StoredWeights(source, load=True)
    fused = stored.matrix(QKV)
    assert fused is not None
    assert torch.equal(fused.widen(torch.float32), torch.cat([source.tensors[p.name].float() for p in QKV]))
    entry = stored.matrix([part("experts#1", 32)])
    assert entry is not None
    assert torch.equal(entry.widen(torch.float32), source.tensors["experts"].float()[1])


@needs_native
def test_the_next_load_maps_what_this_one_packed(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    first = StoredWeights(checkpoint(str(path)), load=True)
    packed = first.matrix(QKV)
    first.save()
    assert packed is not None
    assert (tmp_path / "m.gguf.packed").exists()
    empty = Checkpoint(SPEC, {n: _unreadable(t) for n, t in checkpoint().tensors.items()}, None, str(path))
    again = StoredWeights(empty, load=True).matrix(QKV)
    assert again is not None
    assert torch.equal(again.tensors["packed"], packed.tensors["packed"])


def test_other_formats_and_broken_blocks_are_not_packed() -> None:
    stored = StoredWeights(checkpoint(), load=False)
    assert stored.matrix([part("plain", 16)]) is None
    assert stored.matrix([part("q", 48), part("plain", 16)]) is None
    assert stored.matrix([part("q", 48, 48)]) is None
    assert stored.matrix([part("absent", 16)]) is None


class Stub:
    """As much of a device as decides."""

    def __init__(self, *, real: bool, stored_weights: bool) -> None:
        self.name, self.real, self.stored_weights = "stub", real, stored_weights


def decide(asked: str, device: Any, at_hand: bool = True) -> str:
    plan = Plan.from_dict({"model": "smollm2-135m", "engine": {"weights": asked}})
    return decide_weights(plan, device, checkpoint() if at_hand else None)


def test_a_plan_gets_stored_weights_where_the_device_multiplies_them() -> None:
    able, unable = Stub(real=True, stored_weights=True), Stub(real=True, stored_weights=False)
    modelled = Stub(real=False, stored_weights=False)
    assert decide("auto", able) == "stored"
    assert decide("auto", able, at_hand=False) == "dense"
    assert decide("auto", unable) == "dense"
    assert decide("dense", able) == "dense"
    assert decide("stored", modelled) == "stored"
    assert decide("fp8", modelled) == "fp8"
    with pytest.raises(ValueError, match="can be predicted; to run one give its files"):
        decide("fp8", able)
    with pytest.raises(ValueError, match="use weights 'dense', or kernels 'native'"):
        decide("stored", unable)
    with pytest.raises(ValueError, match="twofold pull smollm2-135m"):
        decide("stored", modelled, at_hand=False)


def _unreadable(found: StoredTensor) -> StoredTensor:
    return StoredTensor(found.name, found.format, found.shape, found.data[:0], found.widen)
