"""Finding the model that a plan names: an architecture for predictions, weights for runs."""

from __future__ import annotations

from twofold.errors import nearest
from twofold.models.catalog import get_spec, model_names
from twofold.models.loading import load_checkpoint
from twofold.models.locate import is_path
from twofold.models.registry import cached_path, registered_names
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint


def find_spec(name: str) -> ModelSpec:
    """The architecture called `name` in the catalogue, or that of the model at a path or in the registry."""
    if is_path(name):
        return load_checkpoint(name, weights=False).spec
    known = {n.lower() for n in model_names(aliases=True)}
    if name.lower() in known:
        return get_spec(name)
    if name in registered_names():
        return load_checkpoint(name, weights=False).spec
    raise ValueError(
        f"unknown model {name!r}, and there is no such file; {nearest(name, known | set(registered_names()))}"
    )


def find_checkpoint(name: str) -> Checkpoint:
    """The weights called `name` (pulled before) or at that path. ValueError where only the architecture is
    known."""
    if not is_path(name) and name not in registered_names():
        find_spec(name)  # an unknown name says so
        raise ValueError(
            f"{name} is known by its architecture only: it can be predicted, not run; to run it give the "
            "path of a GGUF file or of a "
            f"Hugging Face directory, or one of {', '.join(registered_names())}"
        )
    return load_checkpoint(name)


def find_stored(name: str) -> Checkpoint | None:
    """The weights called `name` where they are at hand: their formats are known, and nothing is read."""
    if is_path(name) or (name in registered_names() and cached_path(name) is not None):
        return load_checkpoint(name)
    return None


def find_tokenizer_source(name: str) -> Checkpoint | None:
    """What carries the tokenizer of the model called `name`, where that is at hand."""
    if is_path(name) or (name in registered_names() and cached_path(name) is not None):
        return load_checkpoint(name, weights=False)
    return None
