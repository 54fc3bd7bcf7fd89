"""One door to checkpoints: a registry name, a GGUF file or a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from twofold.models import hf
from twofold.models.gguf import GGUFFile, read_gguf
from twofold.models.gguf_names import canonical_sources
from twofold.models.gguf_spec import gguf_spec, is_interleaved
from twofold.models.locate import locate
from twofold.models.names import check_tensors
from twofold.models.spec import ModelSpec
from twofold.models.stored import LazyTensors
from twofold.models.tensors import Checkpoint, Tokenizer
from twofold.models.text import read_tokenizer


def load_checkpoint(name_or_path: str | Path, *, weights: bool = True) -> Checkpoint:
    """The model called `name_or_path` in the registry (pulled before), or at that path: a .gguf file or a
    directory.

    Files are memory-mapped and nothing is widened; without `weights`, tensors are left out. A tokenizer that
    is missing or cannot be read does not stand in the way: `Checkpoint.text_tokenizer()` then says why.
    Raises ValueError for everything else that is wrong with the name or the files.
    """
    path, name = locate(name_or_path)
    return _hf(path, name, weights) if path.is_dir() else _gguf(path, name, weights)


def load_spec(name_or_path: str | Path) -> ModelSpec:
    """The architecture alone of what `load_checkpoint` accepts; reads no weights and no tokenizer."""
    path, name = locate(name_or_path)
    if path.is_dir():
        return hf.read_spec(path, name)
    file = read_gguf(path)
    return gguf_spec(file, file.sources(), name)


def _gguf(path: Path, name: str, weights: bool) -> Checkpoint:
    file = read_gguf(path)
    sources = file.sources()
    spec = gguf_spec(file, sources, name)
    found = canonical_sources(spec, sources, interleaved=is_interleaved(file), where=str(path))
    check_tensors(spec, found, str(path))
    return Checkpoint(spec, LazyTensors(found if weights else {}), *_tokenizer(path, file))


def _hf(path: Path, name: str, weights: bool) -> Checkpoint:
    spec = hf.read_spec(path, name)
    tensors = hf.read_tensors(path, spec) if weights else LazyTensors({})
    return Checkpoint(spec, tensors, *_tokenizer(path))


def _tokenizer(path: Path, file: GGUFFile | None = None) -> tuple[Tokenizer | None, str, str]:
    """The tokenizer where there is one, `path` as text, and what is wrong where there is none."""
    try:
        return read_tokenizer(path, file), str(path), ""
    except ValueError as error:
        return None, str(path), str(error)
