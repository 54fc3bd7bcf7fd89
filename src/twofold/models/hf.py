"""Hugging Face directories: config.json and *.safetensors (one file, or shards with an index)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from twofold.models.hf_config import hf_spec, read_json
from twofold.models.hf_names import canonical_sources
from twofold.models.names import check_tensors
from twofold.models.spec import ModelSpec
from twofold.models.stored import LazyTensors, Source

_FORMATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_INDEX = "model.safetensors.index.json"


def read_spec(directory: Path, name: str) -> ModelSpec:
    """The architecture described by config.json in `directory`, called `name`."""
    path = directory / "config.json"
    return hf_spec(read_json(path), name, str(path))


def read_tensors(directory: Path, spec: ModelSpec) -> LazyTensors:
    """The weights in `directory` under canonical names, as views of the mapped files.

    Raises ValueError for missing, damaged or unreadable files, for numbers that are not f32, f16 or bf16, and
    for tensors that do not fit `spec`.
    """
    sources: dict[str, Source] = {}
    for shard in _shards(directory):
        for name, source in _file_sources(shard).items():
            if name in sources:
                raise ValueError(f"{shard}: tensor {name!r} is in more than one file")
            sources[name] = source
    found = canonical_sources(spec, sources, str(directory))
    check_tensors(spec, found, str(directory))
    return LazyTensors(found)


def _shards(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index}: has no 'weight_map'")
        shards = [directory / str(name) for name in sorted(set(weight_map.values()))]
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise ValueError(f"{directory}: {', '.join(missing)} named in {_INDEX} missing")
        return shards
    if shards := sorted(directory.glob("*.safetensors")):
        return shards
    torch_files = sorted(p.name for p in directory.glob("*.bin"))
    hint = f"; {torch_files[0]} must be converted to safetensors first" if torch_files else ""
    raise ValueError(f"{directory}: no *.safetensors files{hint}")


def _file_sources(path: Path) -> dict[str, Source]:
    try:
        file = safe_open(path, framework="pt")
        found = {}
        for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118  (not a mapping)
            part = file.get_slice(name)  # type: ignore[no-untyped-call]
            dtype = part.get_dtype()
            if dtype not in _FORMATS:
                raise ValueError(
                    f"{path}: tensor {name!r} has the unsupported type {dtype}; "
                    f"supported: {', '.join(_FORMATS)}"
                )
            found[name] = Source(_FORMATS[dtype], tuple(part.get_shape()), _loader(file, name))
        return found
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def _loader(file: Any, name: str) -> Callable[[], torch.Tensor]:
    def load() -> torch.Tensor:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor.reshape(-1).view(torch.uint8)

    return load
