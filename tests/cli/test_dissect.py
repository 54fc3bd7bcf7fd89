"""`stream`, `breakdown`, `measure` and `calibrate --device`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold

from twofold.kernels.cpu import native

needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built")


@needs_native
def test_stream_prints_its_table(twofold: Twofold) -> None:
    args = ("stream", "--size", "64KiB", "--threads", "1", "-r", "2")
    table = twofold(*args)
    assert table.exit_code == 0, table.stderr
    for word in ("Copy", "Scale", "Add", "Triad", "best rate MB/s", "plain", "abstract"):
        assert word in table.stdout
    found = json.loads(twofold(*args, "--json").stdout)
    assert {r["kernel"] for r in found["results"]} == {"copy", "scale", "add", "triad"}
    assert all(r["threads"] == 1 and r["array_bytes"] == 65536 for r in found["results"])
    assert found["abstract_over_plain"] > 0


def test_stream_refuses_no_threads(twofold: Twofold) -> None:
    result = twofold("stream", "--threads", "0")
    assert result.exit_code == 2
    assert "--threads is 0" in result.stderr


def test_breakdown_of_a_prediction(twofold: Twofold, tmp_path: Path) -> None:
    html = tmp_path / "out.html"
    args = ("--model", "llama-3.1-8b", "--device", "h100-sxm", "--prompt", "64", "--output", "4")
    result = twofold("breakdown", *args, "--devices", "b200", "--html", html)
    assert result.exit_code == 0, result.stderr
    assert "attention output" in result.stdout
    assert "Time by module" in html.read_text(encoding="utf-8")
    found = json.loads(twofold("breakdown", *args, "--json").stdout)
    (device,) = found
    assert device["device"] == "h100-sxm"
    modules = device["phases"]["decode"]["modules"]
    assert sum(modules.values()) == pytest.approx(device["phases"]["decode"]["seconds"])


def test_measure_a_few_requests(twofold: Twofold, gguf: Path, tmp_path: Path) -> None:
    html = tmp_path / "run.html"
    load = ("--prompt", "8", "--output", "4", "--threads", "1", "--no-quality")
    args = ("measure", "--model", gguf, "--requests", "3", *load)
    result = twofold(*args, "--html", html)
    assert result.exit_code == 0, result.stderr
    assert "output tokens" in result.stdout
    assert "Memory of the process" in html.read_text(encoding="utf-8")
    found = json.loads(twofold(*args, "--json").stdout)
    assert (found["requests"], found["output_tokens"]) == (3, 12)


def test_calibrate_knows_cpu_and_cuda(twofold: Twofold) -> None:
    result = twofold("calibrate", "--device", "cudda")
    assert result.exit_code == 2
    assert "did you mean 'cuda'" in result.stderr
