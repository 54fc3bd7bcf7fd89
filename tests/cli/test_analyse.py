"""`requirements`, `longctx` and `attention-io`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold

from twofold.analysis.use_cases import use_cases
from twofold.devices.catalog import device_names


def test_requirements(twofold: Twofold) -> None:
    options = ("requirements", "--model", "llama-3.1-8b", "--use-case", "chat")
    found = json.loads(twofold(*options, "--json").stdout)
    need = found["requirement"]
    assert need["flop_per_s"] == pytest.approx(need["phases"]["prefill"]["counted"]["flop"]["bf16"] / 0.3)
    assert {d["device"] for d in found["devices"]} == set(device_names())
    h100 = next(d for d in found["devices"] if d["device"] == "h100-sxm")
    assert h100["count"] == 1
    assert h100["trials"][0]["ttft"]["mid"] < 0.3
    shown = twofold(*options, "--devices", "h100-sxm,t4").stdout
    assert "Chatbot on llama-3.1-8b, 1 request at a time, 1 device" in shown
    assert "each figure alone is a necessary condition" in shown
    assert "t4" in shown


def test_requirements_of_ones_own(twofold: Twofold) -> None:
    options = ("--model", "llama-3.1-8b", "--devices", "h100-sxm", "--json")
    own = ("--prompt", "500", "--output", "50", "--beams", "1", "--ttft", "200ms", "--tpot", "0.02")
    need = json.loads(twofold("requirements", *own, *options).stdout)["requirement"]
    case = need["use_case"]
    assert (case["prompt"], case["output"], case["beams"], case["ttft"], case["tpot"]) == (
        500,
        50,
        1,
        0.2,
        0.02,
    )
    cut = json.loads(twofold("requirements", "--tp", "2", *options).stdout)["requirement"]
    assert cut["devices"] == 2
    assert cut["message_seconds"] > 0


def test_use_cases_are_listed(twofold: Twofold) -> None:
    result = twofold("requirements", "--list")
    assert all(name in result.stdout for name in use_cases())
    assert "source: GenZ" in result.stderr
    assert {u["name"] for u in json.loads(twofold("requirements", "--list", "--json").stdout)} == set(
        use_cases()
    )


def test_longctx(twofold: Twofold, tmp_path: Path) -> None:
    options = ("longctx", "--model", "llama-3.1-8b", "--device", "a100-80g-sxm", "--contexts", "32768,4096")
    found = json.loads(twofold(*options, "--json").stdout)
    assert [row["context"] for row in found["rows"]] == [4096, 32768]
    assert found["confidence"] in ("datasheet", "not validated")
    assert found["rows"][0]["sessions"]["per_hour"] > found["rows"][1]["sessions"]["per_hour"]
    peak = json.loads(twofold(*options, "--peak", "--json").stdout)
    assert peak["confidence"] == "theoretical peak"
    assert peak["rows"][1]["prefill"]["mid"] < found["rows"][1]["prefill"]["mid"]
    page = tmp_path / "page.html"
    assert json.loads(twofold(*options, "--json", "--html", page).stdout)["rows"]
    assert page.is_file()
    result = twofold(*options, "--html", page)
    assert "sessions per hour: upper bounds" in result.stdout
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "Latency over the context" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_attention_io(twofold: Twofold, tmp_path: Path) -> None:
    options = ("attention-io", "--model", "llama-3.1-8b", "--device", "h100-sxm", "--contexts", "1024,65536")
    whole = json.loads(twofold(*options, "--json").stdout)
    assert whole["cache_bytes"] == 50_000_000
    assert whole["rows"][0]["bound"] == whole["rows"][0]["counted"]
    small = json.loads(twofold(*options, "--cache", "227KiB", "--json").stdout)
    assert small["rows"][1]["bound"] > 10 * whole["rows"][1]["bound"]
    page = tmp_path / "page.html"
    assert "cache of 50.0 MB (h100-sxm)" in twofold(*options, "--html", page).stdout
    assert page.read_text(encoding="utf-8").count("<svg") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("requirements", "--use-case", "chatt"), "did you mean 'chat'?"),
        (("requirements", "--ttft", "soon"), "'soon' is not a quantity"),
        (("requirements", "--ttft", "0"), "ttft must be positive"),
        (("requirements", "--batch", "0"), "batch must be at least 1"),
        (("requirements", "--max-devices", "0"), "--max-devices must be at least 1"),
        (("requirements", "--model", "llama-3.1-8b", "--devices", "pim-gpt"), "has no peaks to compare with"),
        (("requirements", "--model", "llama-3.1-8b", "--devices", "h1000"), "unknown device 'h1000'"),
        (("longctx",), "'cpu' is a real device; name one that is modelled"),
        (("attention-io",), "'cpu' is a real device; name one that is modelled"),
        (
            ("longctx", "--device", "h100-sxm", "--contexts", "100000"),
            "none of '100000' fits beside an answer of 250",
        ),
        (("longctx", "--device", "h100-sxm", "--contexts", "long"), "not a list of whole numbers"),
        (("longctx", "--device", "h100-sxm", "--users", "0"), "users must be at least 1"),
        (("attention-io", "--device", "xeon-6154", "--model", "deepseek-v3"), "caches one latent"),
        (("attention-io", "--device", "h100-sxm", "--cache", "100B"), "needs at least"),
    ],
)
def test_mistakes_are_said(twofold: Twofold, options: tuple[str, ...], said: str) -> None:
    result = twofold(*options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_contexts_that_are_left_out_are_named(twofold: Twofold) -> None:
    result = twofold(
        "attention-io", "--model", "llama-2-7b", "--device", "h100-sxm", "--contexts", "1024,8192"
    )
    assert result.exit_code == 0
    assert "left out: 8,192 tokens are more than llama-2-7b takes (4,096)" in " ".join(result.stderr.split())
