"""`generate` and `chat`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold
from tests.models.tiny import tiny_gguf

from twofold.cli.talk import _interrupts
from twofold.engine.integrity import check
from twofold.engine.request import SamplingParams
from twofold.jobs.session import Conversation, Session
from twofold.plan import Plan


def test_generate_prints_text_and_tells_the_speed_apart(gguf: Path, twofold: Twofold) -> None:
    result = twofold("generate", "hello", "--model", gguf, "--max-tokens", "6")
    assert result.exit_code == 0, result.stderr
    assert "6 out" in result.stderr
    assert "tokens/s" in result.stderr
    assert "tokens/s" not in result.stdout


def test_generate_is_deterministic_and_equals_the_session(gguf: Path, twofold: Twofold) -> None:
    args = (
        "generate",
        "hello",
        "--model",
        gguf,
        "--max-tokens",
        "12",
        "--temperature",
        "1",
        "--seed",
        "4",
        "--json",
    )
    first, second = (json.loads(twofold(*args).stdout) for _ in range(2))
    assert first["text"] == second["text"]
    assert first["output_tokens"] == 12
    assert first["ttft"]["unit"] == "s"
    session = Session(Plan.from_dict({"model": str(gguf)}))
    pieces: list[str] = []
    prompt = session.prompt_of([{"role": "user", "content": "hello"}])
    answer = session.answer(prompt, SamplingParams(max_tokens=12, temperature=1, seed=4), pieces.append)
    assert answer.text == "".join(pieces) == first["text"]


def test_raw_leaves_the_chat_template_out(gguf: Path, twofold: Twofold) -> None:
    def prompt_tokens(*args: str) -> int:
        common = ("--model", gguf, "--max-tokens", "1", "--json")
        return int(json.loads(twofold("generate", "hello", *common, *args).stdout)["prompt_tokens"])

    raw = prompt_tokens("--raw")
    assert raw == len("hello")  # a byte-level vocabulary without a merge in this word
    assert prompt_tokens() > raw
    assert prompt_tokens("--system", "Be brief.") > prompt_tokens()


def test_the_prompt_may_come_from_standard_input(gguf: Path, twofold: Twofold) -> None:
    args = ("--model", gguf, "--max-tokens", "3", "--json")
    piped = json.loads(twofold("generate", "-", *args, input="hello").stdout)
    assert piped["text"] == json.loads(twofold("generate", "hello", *args).stdout)["text"]


def test_techniques_of_a_plan_are_on(gguf: Path, tmp_path: Path, twofold: Twofold) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(f"model: {gguf}\ntechniques: ['kivi:group=16,residual=16']\n")
    found = json.loads(twofold("generate", "hello", "--plan", file, "--max-tokens", "3", "--json").stdout)
    assert found["techniques"] == "kivi(group=16, residual=16)"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--temperature", "-1"], "temperature is -1.0; it must be 0 (greedy) or more"),
        (["--temperature", "nan"], "temperature is nan; it must be a finite number"),
        (["--top-p", "0"], "top_p is 0.0; it must be above 0"),
        (["--max-tokens", "0"], "max_tokens is 0; it must be at least 1"),
        (["--raw", "--system", "x"], "--system is part of the chat template"),
        (["--device", "h100-sxm"], "'h100-sxm' is a modelled device and computes no text"),
    ],
)
def test_generate_refuses(args: list[str], said: str, gguf: Path, twofold: Twofold) -> None:
    result = twofold("generate", "hello", "--model", gguf, *args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_prompt_beyond_the_context(gguf: Path, twofold: Twofold) -> None:
    result = twofold("generate", "x " * 400, "--model", gguf)
    assert result.exit_code == 2
    assert "the context ends at 256" in result.stderr


def test_a_missing_tokenizer_is_said(mute: Path, tmp_path: Path, twofold: Twofold) -> None:
    result = twofold("generate", "hello", "--model", mute)
    assert result.exit_code == 2
    assert "carries no tokenizer.json" in result.stderr
    bare = tiny_gguf(tmp_path / "bare.gguf", tokenizer=False)
    result = twofold("generate", "hello", "--model", bare)
    assert result.exit_code == 2
    assert "bare.gguf" in result.stderr
    assert "tokenizer" in result.stderr


@pytest.mark.parametrize("size", [3, 100, 3000, -1000])
def test_a_truncated_gguf(size: int, gguf: Path, tmp_path: Path, twofold: Twofold) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:size])
    result = twofold("generate", "hello", "--model", cut)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "cut.gguf" in result.stderr


def test_a_corrupt_gguf(gguf: Path, tmp_path: Path, twofold: Twofold) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"\0\0\0\0" + gguf.read_bytes()[4:])
    result = twofold("generate", "hello", "--model", bad)
    assert result.exit_code == 2
    assert "bad.gguf" in result.stderr


def test_a_conversation(gguf: Path, twofold: Twofold) -> None:
    lines = "hi\n/stats\n/what\n/reset\nhi\n/exit\nnever\n"
    result = twofold("chat", "--model", gguf, "--max-tokens", "4", input=lines)
    assert result.exit_code == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == second  # the conversation was forgotten in between
    assert "chat: 1 answer, " in result.stderr
    assert "unknown command '/what'" in result.stderr
    assert "chat: 2 answers, " in result.stderr


def test_a_conversation_that_is_too_long_goes_on_after_reset(gguf: Path, twofold: Twofold) -> None:
    result = twofold("chat", "--model", gguf, "--max-tokens", "2", input="x" * 300 + "\nhi\n")
    assert result.exit_code == 0
    assert "the context ends at 256" in result.stderr
    assert "/reset begins anew" in result.stderr
    assert "chat: 1 answer, " in result.stderr


def test_later_questions_reuse_the_cache(gguf: Path) -> None:
    session = Session(Plan.from_dict({"model": str(gguf)}))
    talk = Conversation(session)
    params = SamplingParams(max_tokens=4)
    talk.ask("a question of some length", params, lambda _: None, lambda: False)
    second = talk.ask("another", params, lambda _: None, lambda: False)
    assert second.cached >= 16
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2


def test_an_interrupted_answer_leaves_the_engine_whole(gguf: Path) -> None:
    session = Session(Plan.from_dict({"model": str(gguf)}))
    params = SamplingParams(max_tokens=100, ignore_eos=True)
    steps = iter([False] * 5 + [True] * 200)
    stopped = session.answer("hello", params, lambda _: None, lambda: next(steps))
    assert stopped.finish_reason == "cancelled"
    assert 0 < stopped.output_tokens < 100
    check(session.engine.scheduler)
    assert not session.engine.has_work
    whole = session.answer("hello", params, lambda _: None)
    assert whole.output_tokens == 100
    assert whole.text.startswith(stopped.text)


def test_ctrl_c_asks_first_and_insists_second() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _interrupts() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.model
def test_the_default_model_answers(twofold: Twofold, monkeypatch: pytest.MonkeyPatch) -> None:
    from twofold.models.registry import cached_path

    monkeypatch.delenv("TWOFOLD_CACHE")
    if cached_path("smollm2-135m") is None:
        pytest.skip("the default model is not here: run `twofold pull smollm2-135m`")
    result = twofold("generate", "What is the capital of Germany?", "--max-tokens", "12")
    assert result.exit_code == 0, result.stderr
    assert "Berlin" in result.stdout
