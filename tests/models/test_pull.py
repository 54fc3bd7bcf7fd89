"""Pulling: from wheels that lie in a folder instead of an index, with everything that can go wrong on the
way.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from twofold.models import pull as pull_module
from twofold.models import pull_wheel, registry
from twofold.models.catalog import model_names
from twofold.models.pull import pull, sha256
from twofold.models.registry import (
    Entry,
    HubSource,
    WheelPart,
    WheelSource,
    cached_path,
    models_dir,
    registered_names,
)
from twofold.models.transfer import PullError, progress_bar

CONTENT = [bytes(range(256)) * 20, b"second part" * 300]
WHOLE = b"".join(CONTENT)


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> None:
    module = package.replace("-", "_")
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        info = f"{module}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def make_entry(
    *, count: int = 1, digest: str = "", path: str = "data/part.bin", package: str = "twofold-test-part"
) -> Entry:
    """An entry made of the first `count` wheels."""
    whole = b"".join(CONTENT[:count])
    parts = tuple(WheelPart(f"{package}{i}", "1.0", path) for i in range(count))
    source = WheelSource("model.gguf", digest or hashlib.sha256(whole).hexdigest(), len(whole), parts)
    return Entry("tiny", "Tiny", "MIT", (source,))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip is told to use instead of any index, and an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number, content in enumerate(CONTENT):
        write_wheel(folder, f"twofold-test-part{number}", {"data/part.bin": content})
    for variable in [v for v in os.environ if v.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "cache"))
    return folder


def register(monkeypatch: pytest.MonkeyPatch, entry: Entry) -> None:
    monkeypatch.setattr(registry, "_entries", lambda: {entry.name: entry})


def assert_nothing_kept() -> None:
    kept = [p for p in models_dir().rglob("*") if p.is_file()] if models_dir().exists() else []
    assert kept == []
    assert not list(models_dir().glob(".partial*"))


def test_parts_are_joined_verified_and_not_fetched_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, make_entry(count=2))
    assert cached_path("tiny") is None
    seen: dict[str, int] = {}
    path = pull("tiny", progress=lambda stage, done, total: seen.__setitem__(stage, done))
    assert path.read_bytes() == WHOLE
    assert path == models_dir() / "tiny" / "model.gguf" == cached_path("tiny")
    assert seen["extract"] == seen["verify"] == len(WHOLE)
    assert seen["download"] > 0
    assert [p.name for p in models_dir().iterdir()] == ["tiny"]

    def no_more(*args: object, **kwargs: object) -> None:
        raise AssertionError("fetched again")

    monkeypatch.setattr(pull_module, "download_wheel", no_more)
    assert pull("TINY") == path
    path.write_bytes(WHOLE[:-1] + b"x")
    with pytest.raises(
        PullError, match=r"its checksum is wrong\. Delete it and run `twofold pull tiny` again"
    ):
        pull("tiny")


def test_wrong_checksum_leaves_nothing(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make_entry(digest="0" * 64))
    with pytest.raises(
        PullError, match=f"checksum mismatch: sha256 is {hashlib.sha256(CONTENT[0]).hexdigest()}"
    ):
        pull("tiny")
    assert_nothing_kept()


def test_offline_says_what_was_tried_and_how_to_do_it_by_hand(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, make_entry(package="twofold-test-absent"))
    with pytest.raises(PullError) as caught:
        pull("tiny")
    message = str(caught.value)
    assert "\n" not in message
    assert "twofold-test-absent0==1.0" in message
    assert "pip failed: " in message
    digest = hashlib.sha256(CONTENT[0]).hexdigest()
    assert f"copy model.gguf (sha256 {digest}) to {models_dir() / 'tiny' / 'model.gguf'}" in message
    assert_nothing_kept()


def test_a_file_placed_by_hand_is_taken(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make_entry(package="twofold-test-absent"))
    place = models_dir() / "tiny" / "model.gguf"
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT[0])
    assert pull("tiny") == place


def test_a_wheel_without_the_file(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make_entry(path="data/other.bin"))
    with pytest.raises(
        PullError, match=r"twofold_test_part0-1\.0-py3-none-any\.whl holds no data/other\.bin"
    ):
        pull("tiny")
    assert_nothing_kept()


@pytest.mark.parametrize("stage", ["download", "extract", "verify"])
def test_an_interrupt_leaves_nothing(stage: str, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make_entry())

    def interrupt(now: str, done: int, total: int) -> None:
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("tiny", progress=interrupt)
    assert_nothing_kept()


def test_a_full_disk_is_named_and_leaves_nothing(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make_entry())

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pull_module, "extract", full)
    with pytest.raises(PullError, match=r"the disk of .* is full .*TWOFOLD_CACHE names another folder"):
        pull("tiny")
    assert_nothing_kept()


def test_without_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, make_entry())
    monkeypatch.setattr(pull_wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PullError, match="has no pip; `python -m ensurepip` installs it"):
        pull("tiny")


def test_a_cache_that_cannot_be_written(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, make_entry())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "file"))
    with pytest.raises(PullError, match="Not a directory"):
        pull("tiny")


def test_hugging_face_offline(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **kwargs: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    register(monkeypatch, Entry("tiny", "Tiny", "MIT", (HubSource("owner/model"),)))
    with pytest.raises(
        PullError, match=r"https://huggingface\.co/owner/model at main: huggingface\.co cannot be reached"
    ):
        pull("tiny")
    assert_nothing_kept()


def test_hugging_face_directory_is_moved_into_place_whole(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def download(repo: str, *, revision: str, allow_patterns: list[str], local_dir: Path) -> None:
        assert (repo, revision) == ("owner/model", "abc")
        (local_dir / ".cache").mkdir(parents=True)
        (local_dir / "config.json").write_text("{}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    register(monkeypatch, Entry("tiny", "Tiny", "MIT", (HubSource("owner/model", "abc"),)))
    path = pull("tiny")
    assert [p.name for p in path.iterdir()] == ["config.json"]
    assert pull("tiny") == path == cached_path("tiny")


def test_unknown_names_and_the_registry_itself() -> None:
    with pytest.raises(ValueError, match="unknown model 'smollm2-153m'; did you mean 'smollm2-135m'"):
        pull("smollm2-153m")
    known = model_names(aliases=True)
    for name in registered_names():
        entry = registry.get_entry(name)
        assert entry.name == name
        assert not entry.spec or entry.spec in known
        assert entry.terms or entry.licence in ("Apache-2.0", "MIT")
        for source in entry.sources:
            assert isinstance(source, HubSource) or len(source.sha256) == 64
    assert registry.get_entry("gemma-3-270m").name == "gemma3-270m"


def test_the_bar_draws_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as report:
        report("download", 5, 0)
        report("verify", 10, 10)
    shown = capsys.readouterr().err
    assert "download" in shown
    assert "verify" in shown


@pytest.mark.model
def test_the_default_model_is_the_registered_one(smollm2: Path) -> None:
    source = registry.get_entry("smollm2-135m").sources[0]
    assert isinstance(source, WheelSource)
    assert (smollm2.stat().st_size, sha256(smollm2)) == (source.bytes, source.sha256)
