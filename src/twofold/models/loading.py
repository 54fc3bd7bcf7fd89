"""One door to checkpoints: a registry name, a GGUF file or a Hugging Face directory."""

from __future__ import annotations

import os
from pathlib import Path

from twofold.errors import nearest
from twofold.models import hf
from twofold.models.gguf import read_gguf
from twofold.models.gguf_names import canonical_sources
from twofold.models.gguf_spec import gguf_spec, is_interleaved
from twofold.models.names import check_tensors
from twofold.models.registry import cached_path, get_entry, registered_names
from twofold.models.spec import ModelSpec
from twofold.models.stored import LazyTensors
from twofold.models.tensors import Checkpoint, Tokenizer
from twofold.models.tokenizer import hf_tokenizer
from twofold.models.tokenizer_gguf import gguf_tokenizer


def load_checkpoint(name_or_path: str | Path, *, weights: bool = True) -> Checkpoint:
    """The model called `name_or_path` in the registry (pulled before), or at that path: a .gguf file or a
    directory.

    Files are memory-mapped and nothing is widened; without `weights`, tensors are left out. A tokenizer that
    is missing or cannot be read does not stand in the way: `Checkpoint.text_tokenizer()` then says why.
    Raises ValueError for everything else that is wrong with the name or the files.
    """
    path, name = _resolve(name_or_path)
    return _hf(path, name, weights) if path.is_dir() else _gguf(path, name, weights)


def load_spec(name_or_path: str | Path) -> ModelSpec:
    """The architecture alone of what `load_checkpoint` accepts; reads no weights and no tokenizer."""
    path, name = _resolve(name_or_path)
    if path.is_dir():
        return hf.read_spec(path, name)
    file = read_gguf(path)
    return gguf_spec(file, file.sources(), name)


def is_path(name_or_path: str | Path) -> bool:
    """Whether this means a file or directory rather than a model's name."""
    text = os.fspath(name_or_path)
    looks = (
        isinstance(name_or_path, Path)
        or text.endswith(".gguf")
        or os.sep in text
        or text.startswith((".", "~"))
    )
    return looks or Path(text).exists()


def _resolve(name_or_path: str | Path) -> tuple[Path, str]:
    """The path, and the name that the model goes by."""
    if is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or directory")
        if path.is_dir() and not (path / "config.json").is_file():
            inside = sorted(p.name for p in path.glob("*.gguf"))
            hint = f"; name the file itself: {inside[0]}" if inside else ""
            raise ValueError(f"{path}: not a Hugging Face directory, it has no config.json{hint}")
        return path, path.resolve().stem if path.is_file() else path.resolve().name
    name = os.fspath(name_or_path)
    try:
        entry = get_entry(name)
    except ValueError:
        raise ValueError(
            f"unknown model {name!r}, and there is no such file; {nearest(name, registered_names())}"
        ) from None
    if (cached := cached_path(name)) is None:
        raise ValueError(f"model {entry.name!r} is not here yet: run `twofold pull {entry.name}`")
    return cached, entry.name


def _gguf(path: Path, name: str, weights: bool) -> Checkpoint:
    file = read_gguf(path)
    sources = file.sources()
    spec = gguf_spec(file, sources, name)
    found = canonical_sources(spec, sources, interleaved=is_interleaved(file), where=str(path))
    check_tensors(spec, found, str(path))
    tokenizer: Tokenizer | None = None
    problem = f"{path} carries no tokenizer"
    try:
        tokenizer = gguf_tokenizer(file.metadata)
    except ValueError as error:
        problem = f"the tokenizer in {path} cannot be used: {error}"
    return Checkpoint(
        spec, LazyTensors(found if weights else {}), tokenizer, str(path), "" if tokenizer else problem
    )


def _hf(path: Path, name: str, weights: bool) -> Checkpoint:
    spec = hf.read_spec(path, name)
    tensors = hf.read_tensors(path, spec) if weights else LazyTensors({})
    tokenizer: Tokenizer | None = None
    problem = f"{path} carries no tokenizer.json"
    try:
        tokenizer = hf_tokenizer(path, hf.eos_ids(path))
    except ValueError as error:
        problem = f"the tokenizer in {path} cannot be used: {error}"
    return Checkpoint(spec, tensors, tokenizer, str(path), "" if tokenizer else problem)
