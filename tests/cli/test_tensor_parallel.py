"""`--tp 2` on a real device, as users type it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Twofold

GREEDY = ("--raw", "--temperature", "0", "--max-tokens", "12", "--kernels", "native-fp32", "--json")


def test_generate_answers_the_same_with_two_processes(twofold: Twofold, gguf: Path) -> None:
    asked = ("generate", "in the beginning", "--model", gguf, *GREEDY, "--cache-format", "f32")
    answers = [json.loads(twofold(*asked, *more).stdout) for more in ((), ("--tp", "2"))]
    assert answers[0]["text"] == answers[1]["text"]
    assert answers[1]["output_tokens"] > 0


def test_run_measures_two_processes(twofold: Twofold, gguf: Path) -> None:
    load = ("--requests", "2", "--prompt", "16", "--output", "4", "--no-quality")
    result = json.loads(twofold("run", "--model", gguf, "--tp", "2", *load, "--json").stdout)
    assert result["parallel"]["tp"] == 2
    assert result["tokens_per_s"]["mid"] > 0


def test_what_cannot_be_cut_is_said(twofold: Twofold, gguf: Path) -> None:
    said = twofold("generate", "x", "--model", gguf, "--tp", "3")
    assert said.exit_code == 2
    assert "tp may be [1, 2, 4]" in " ".join(said.stderr.split())
