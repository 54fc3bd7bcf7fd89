"""`bench serve` on a server of known answers; `bench` beside it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold
from tests.loadgen.fake_server import FakeServer, Reply

SMALL = ("--prompt", "20", "--output", "3", "--warm-up", "0")


def test_a_sweep_in_json(twofold: Twofold) -> None:
    with FakeServer() as server:
        result = twofold(
            "bench",
            "serve",
            server.url,
            "--concurrency",
            "1,2",
            "--requests",
            "4",
            *SMALL,
            "--json",
            "--seed",
            "3",
        )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [p["concurrency"] for p in found["points"]] == [1, 2]
    for point in found["points"]:
        m = point["measured"]
        assert (m["sent"], m["completed"], m["prompt_tokens"], m["output_tokens"]) == (4, 4, 80, 12)
        assert point["predicted"] is None
    assert "seed: 3" in result.stderr
    assert "only a server of this package tells its plan" in result.stderr


def test_a_rate_with_an_objective_as_tables_and_as_a_page(twofold: Twofold, tmp_path: Path) -> None:
    page = tmp_path / "load.html"
    load = ("--rate", "100,200", "--requests", "6", "--slo", "ttft=600s,tpot=600s", "--arrivals", "constant")
    with FakeServer() as server:
        result = twofold("bench", "serve", server.url, *load, *SMALL, "--html", page)
    assert result.exit_code == 0, result.stderr
    for words in (
        "Sweep",
        "TTFT",
        "TPOT",
        "ITL",
        "end to end",
        "(100 % of those sent)",
        "200 requests/s (constant)",
    ):
        assert words in result.stdout
    assert "<svg" in page.read_text()


def test_a_trace_and_a_file_of_prompts(twofold: Twofold, tmp_path: Path) -> None:
    trace, prompts = tmp_path / "trace.csv", tmp_path / "prompts.txt"
    trace.write_text("arrival_time,prompt_tokens,output_tokens\n0,5,2\n1,7,3\n2,9,4\n")
    prompts.write_text("one\n\ntwo words\n")
    with FakeServer() as server:
        played = twofold(
            "bench", "serve", server.url, "--trace", trace, "--speed-up", "100", "--json", "--warm-up", "0"
        )
        sent = twofold(
            "bench", "serve", server.url, "--prompts", prompts, "--requests", "3", "--output", "2", "--json"
        )
    (point,) = json.loads(played.stdout)["points"]
    assert (point["measured"]["prompt_tokens"], point["measured"]["output_tokens"]) == (21, 9)
    (point,) = json.loads(sent.stdout)["points"]
    assert point["measured"]["prompt_tokens"] == 1 + 2 + 1


def test_the_key_and_headers_are_sent(twofold: Twofold) -> None:
    with FakeServer() as server:
        given = ("--api-key", "secret", "--header", "X-Team: blue", "--requests", "1", *SMALL)
        assert twofold("bench", "serve", server.url, *given).exit_code == 0
        assert {h["authorization"] for h in server.heads} == {"Bearer secret"}
        assert {h["x-team"] for h in server.heads} == {"blue"}


def test_a_server_that_answers_nobody_is_a_failure_with_figures(twofold: Twofold) -> None:
    replies = 0

    def reply(path: str, body: dict[str, object]) -> Reply:
        nonlocal replies
        replies += 1
        if replies == 1:  # the probe
            return Reply([(0.0, b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\n')])
        return Reply([(0.0, b'{"error": {"message": "too many"}}')], status=429)

    with FakeServer(reply) as server:
        result = twofold("bench", "serve", server.url, "--endpoint", "completions", "--requests", "3", *SMALL)
    assert result.exit_code == 1
    assert "no request was answered" in result.stderr
    assert "HTTP 429: too many" in result.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--rate", "1", "--concurrency", "2"], "--concurrency and --rate exclude each other"),
        (["--rate", "x"], "'x' is not a list of numbers"),
        (["--rate", "0"], "above 0 requests per second"),
        (["--concurrency", "0"], "concurrency must be at least 1"),
        (["--arrivals", "constant"], "there is none"),
        (["--rate", "1", "--arrivals", "poison"], "did you mean 'poisson'"),
        (["--prompt", "many"], "'many' is no length"),
        (["--prompts", "/nowhere"], "cannot be read"),
        (["--endpoint", "chats"], "did you mean 'chat'"),
        (["--header", "x"], "write NAME:VALUE"),
        (["--slo", "ttft"], "write NAME=TIME"),
        (["--timeout", "0"], "timeout must be above 0"),
        (["--here", "cpu"], "a real device is measured"),
        (["--here", "h100-smx"], "h100-sxm"),
        (["--tokenizer", "/nowhere.gguf"], "nowhere.gguf"),
        (["--speed-up", "2"], "there is none"),
    ],
)
def test_mistakes_are_said_before_anything_is_sent(args: list[str], said: str, twofold: Twofold) -> None:
    with FakeServer() as server:
        result = twofold("bench", "serve", server.url, *args)
        assert result.exit_code == 2
        assert said in result.stderr
        assert not server.bodies


def test_nobody_listens(twofold: Twofold) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        result = twofold("bench", "serve", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert f"no server answers at 127.0.0.1:{port}" in result.stderr


def test_bench_is_a_command_of_its_own(gguf: Path, twofold: Twofold) -> None:
    assert "Usage: twofold bench serve [OPTIONS]" in " ".join(
        twofold("bench", "serve", "--help").stdout.split()
    )
    assert "--n-prompt" in twofold("bench", "--help").stdout
    result = twofold("bench", "--model", gguf, "-p", "8", "-n", "0", "-r", "1", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert "there is no plan file 'server'" in twofold("bench", "server").stderr
