"""The command as a function, in a world of its own: results and cache lie in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.models.tiny import tiny_gguf, tiny_hf_dir
from typer.testing import CliRunner, Result

from twofold.cli import app

Twofold = Callable[..., Result]


@pytest.fixture(autouse=True)
def results_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the results of this test lie; the cache of models and devices is empty."""
    path = tmp_path / "results.sqlite"
    monkeypatch.setenv("TWOFOLD_RESULTS", str(path))
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("TWOFOLD_DEBUG", raising=False)
    return path


@pytest.fixture
def twofold() -> Twofold:
    """twofold("predict", "--device", …, input=…) runs the command here; a bug is raised."""

    def run(*args: str | Path, input: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in args], input=input, env={"COLUMNS": "160"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer and a chat template; its context is 256 tokens."""
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def mute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model without a tokenizer: a Hugging Face directory."""
    return tiny_hf_dir("llama", tmp_path_factory.mktemp("hf"))
