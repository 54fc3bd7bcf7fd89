"""Packed weights on disk: found again, rewritten when the checkpoint changes, never trusted when damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from twofold.models.packed_cache import PackedCache


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    return path


def filled(checkpoint: Path) -> dict[str, torch.Tensor]:
    tensors = {f"layers.{i}.qkv": torch.randint(0, 256, (100 + 37 * i,), dtype=torch.uint8) for i in range(3)}
    cache = PackedCache(checkpoint)
    for name, tensor in tensors.items():
        assert cache.get(name, tensor.numel()) is None
        cache.put(name, tensor)
    assert cache.save() is not None
    return tensors


def test_what_was_put_is_found_by_the_next_load(checkpoint: Path) -> None:
    tensors = filled(checkpoint)
    cache = PackedCache(checkpoint)
    for name, tensor in tensors.items():
        found = cache.get(name, tensor.numel())
        assert found is not None
        assert torch.equal(found, tensor)
        assert found.data_ptr() % 64 == 0
    assert cache.get("layers.0.qkv", 7) is None
    assert cache.get("other", 7) is None
    assert cache.save() is None  # nothing new


def test_more_matrices_are_added(checkpoint: Path) -> None:
    tensors = filled(checkpoint)
    cache = PackedCache(checkpoint)
    cache.put("embed", torch.ones(5, dtype=torch.uint8))
    cache.save()
    cache = PackedCache(checkpoint)
    assert cache.get("embed", 5) is not None
    for name, tensor in tensors.items():
        assert torch.equal(cache.get(name, tensor.numel()), tensor)


@pytest.mark.parametrize("damage", ["newer", "cut", "garbage"])
def test_a_stale_or_damaged_file_is_ignored(checkpoint: Path, damage: str) -> None:
    filled(checkpoint)
    path = checkpoint.with_name("m.gguf.packed")
    if damage == "newer":
        os.utime(checkpoint, ns=(1, 1))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(b"\xff\x00 no json\n" + path.read_bytes())
    assert PackedCache(checkpoint).get("layers.0.qkv", 100) is None


def test_a_folder_that_cannot_be_written_falls_back_to_the_users_cache(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PackedCache._write

    def refuse(self: PackedCache, path: Path) -> None:
        if path.parent == checkpoint.parent:
            raise PermissionError(path)
        real(self, path)

    monkeypatch.setattr(PackedCache, "_write", refuse)
    tensors = filled(checkpoint)
    assert not checkpoint.with_name("m.gguf.packed").exists()
    found = PackedCache(checkpoint).get("layers.1.qkv", 137)
    assert torch.equal(found, tensors["layers.1.qkv"])
