"""Where the model lies that a name or path means."""

from __future__ import annotations

import os
from pathlib import Path

from twofold.errors import nearest
from twofold.models.registry import cached_path, get_entry, registered_names


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


def locate(name_or_path: str | Path) -> tuple[Path, str]:
    """The path of the model called so in the registry (pulled before) or lying there, and the name that it
    goes by. ValueError where there is none."""
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
