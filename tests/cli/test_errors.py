"""Exit codes, tracebacks, start-up, completion: the command as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold
from tests.waiting import PATIENCE
from typer.models import CommandInfo

from twofold.cli import app, complete

HEAVY = ("torch", "numpy", "matplotlib", "transformers")


def process(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m twofold` with `args`."""
    command = [sys.executable, "-m", "twofold", *args]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, timeout=PATIENCE
    )


def loaded(*args: str) -> set[str]:
    """Top-level modules that are loaded once the command has run."""
    code = (
        "import sys\nfrom twofold.cli import main\n"
        f"try:\n main({list(args)!r})\nexcept SystemExit as end:\n assert not end.code, end.code\n"
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_help_loads_nothing_heavy() -> None:
    assert not loaded("--help") & {*HEAVY, "pydantic", "yaml", "jinja2", "twofold.plan"}


@pytest.mark.parametrize("args", [("devices",), ("models",), ("results",), ("predict", "--help")])
def test_lists_load_no_torch(args: tuple[str, ...]) -> None:
    assert "torch" not in loaded(*args)


def test_a_mistake_is_one_line_and_exit_2() -> None:
    done = process("predict", "--device", "h10-sxm")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown device 'h10-sxm'; did you mean 'h100-sxm'?\n"


def test_tracebacks_where_they_are_asked_for() -> None:
    done = process("predict", "--device", "h10-sxm", TWOFOLD_DEBUG="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "did you mean 'h100-sxm'?" in done.stderr


def test_unknown_options_and_commands_suggest(twofold: Twofold) -> None:
    result = twofold("preditc")
    assert result.exit_code == 2
    assert "Did you mean 'predict'?" in result.stderr
    result = twofold("predict", "--modle", "x")
    assert result.exit_code == 2
    assert "--model" in result.stderr
    assert twofold("predict", "--tp", "two").exit_code == 2


def test_an_interrupt_is_130(twofold: Twofold, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("twofold.jobs.predict.predict_plan", interrupted)
    result = twofold("predict", "--device", "t4")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_a_bug_is_not_hidden(twofold: Twofold, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise AssertionError("impossible")

    monkeypatch.setattr("twofold.jobs.predict.predict_plan", broken)
    with pytest.raises(AssertionError, match="impossible"):
        twofold("predict", "--device", "t4")


def name_of(command: CommandInfo) -> str:
    """The command's name, which typer makes of the function's where there is none."""
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")


def test_every_command_has_help_and_a_description(twofold: Twofold) -> None:
    names = [name_of(command) for command in app.registered_commands]
    assert {
        "compare",
        "run",
        "predict",
        "generate",
        "chat",
        "pull",
        "models",
        "devices",
        "techniques",
    } <= set(names)
    assert {"claims", "calibrate", "bench", "simulate", "schema"} <= set(names)
    for name in [*names, "results", "plan"]:
        result = twofold(name, "--help")
        assert result.exit_code == 0
        assert "Usage: " in result.stdout
    assert "Examples" in twofold("predict", "--help").stdout


def test_the_examples_of_the_help_are_valid_options(twofold: Twofold) -> None:
    """An example's options are known to its command."""
    for command in app.registered_commands:
        shown = twofold(name_of(command), "--help").stdout
        for line in (command.epilog or "").split("\n\n"):
            for word in line.split():
                if word.startswith("--"):
                    assert f" {word}" in shown.split("Examples")[0], (line, word)


def test_version(twofold: Twofold) -> None:
    assert twofold("--version").stdout.startswith("twofold ")


def test_names_are_completed() -> None:
    assert complete.devices("h100-s") == ["h100-sxm"]
    assert complete.devices("t4,h100-s") == ["t4,h100-sxm"]
    assert complete.techniques("kiv") == ["kivi"]
    assert "llama-3.1-8b" in complete.models("llama-3.1")
    assert complete.pullable("smollm2-135") == ["smollm2-135m"]


def test_the_shell_is_answered(tmp_path: Path) -> None:
    words = {
        "_TWOFOLD_COMPLETE": "complete_bash",
        "COMP_WORDS": "twofold predict --device h1",
        "COMP_CWORD": "3",
    }
    assert "h100-sxm" in process(**words).stdout
