"""A model's tokenizer without the model: nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from twofold.models.gguf import GGUFFile, read_gguf
from twofold.models.hf_config import eos_ids
from twofold.models.locate import locate
from twofold.models.tokenizer import TextTokenizer, hf_tokenizer
from twofold.models.tokenizer_gguf import gguf_tokenizer


def load_tokenizer(name_or_path: str | Path) -> TextTokenizer:
    """The tokenizer of the model called `name_or_path` in the registry, or at that path. ValueError where
    there is no such model, or it carries no tokenizer that can be used."""
    return read_tokenizer(locate(name_or_path)[0])


def read_tokenizer(path: Path, file: GGUFFile | None = None) -> TextTokenizer:
    """The tokenizer of the Hugging Face directory or GGUF file at `path` (`file`: what was read of it
    already). ValueError, saying why, where there is none that can be used."""
    try:
        if path.is_dir():
            found, missing = hf_tokenizer(path, eos_ids(path)), "no tokenizer.json"
        else:
            found, missing = gguf_tokenizer((file or read_gguf(path)).metadata), "no tokenizer"
    except ValueError as error:
        raise ValueError(f"the tokenizer in {path} cannot be used: {error}") from None
    if found is None:
        raise ValueError(f"{path} carries {missing}")
    return found
