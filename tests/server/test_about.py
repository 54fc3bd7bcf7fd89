"""`/plan` and `/metrics` of a real service: they agree with the answers that were given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.models.tiny import tiny_gguf
from tests.server.running import Running, running, serving_plan
from tests.server.test_metrics import read
from tests.server.test_snapshot import this_cpu

from twofold.engine.sampling_params import SamplingParams
from twofold.plan import Plan
from twofold.server import about, metrics
from twofold.server.described import describe
from twofold.server.dispatcher import Refused
from twofold.server.messages import Chunk, Embed, Embedded, Ended, Generate, Job

__all__ = ["this_cpu"]
PROMPT = tuple([*range(10, 22)] * 3)
USES = [{"name": "copyspec", "params": {"gamma": 2}}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, TestClient]]:
    model = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    values = serving_plan(model).model_dump(mode="json", exclude_unset=True)
    plan = Plan.from_dict({**values, "techniques": USES})
    with running(plan, max_queue=0) as found:
        app = FastAPI()
        for part in (metrics, about):
            app.include_router(part.routes(found.service))
        yield found, TestClient(app)


async def answer(found: Running, job: Job) -> tuple[int, Ended | Embedded]:
    """Tokens that were delivered, and the end."""
    count = 0
    async with found.service.submit(job) as stream:
        async for event in stream:
            if isinstance(event, Chunk):
                count += event.num_tokens
    assert isinstance(event, Ended | Embedded)
    return count, event


async def play(found: Running) -> list[tuple[int, Ended | Embedded]]:
    """Four at a time, one embedding among them; then two that leave and one that is refused."""
    service = found.service
    done: list[tuple[int, Ended | Embedded]] = []
    for turn in range(3):
        jobs: list[Job] = [
            Generate(f"g{turn}{n}", PROMPT[n:], SamplingParams(max_tokens=10 + n, ignore_eos=True))
            for n in range(3)
        ]
        jobs.append(Embed(f"e{turn}", PROMPT))
        done += await asyncio.gather(*[answer(found, job) for job in jobs])
    long = SamplingParams(max_tokens=150, ignore_eos=True)
    streams = [service.submit(Generate(f"long{n}", PROMPT, long)) for n in range(4)]
    with pytest.raises(Refused):
        service.submit(Generate("too-many", PROMPT, long))
    for stream in streams:
        stream.close()
    await found.settled()
    return done


def test_counts_equal_usage(served: tuple[Running, TestClient]) -> None:
    found, client = served
    before = client.get("/plan").json()
    assert before["measured"]["requests"] == 0
    assert before["measured"]["ttft"] is None
    done = found.run(play(found))
    ends = [end for _, end in done]
    answers = [end for end in ends if isinstance(end, Ended)]
    assert [count for count, end in done if isinstance(end, Ended)] == [e.output_tokens for e in answers]
    value = read(client)
    assert value("generation_tokens_total") == sum(e.output_tokens for e in answers) == 99
    assert value("prompt_tokens_total") == sum(e.prompt_tokens for e in ends)
    assert value("cached_prompt_tokens_total") == sum(e.cached_tokens for e in answers) > 0
    assert value("request_success_total", finished_reason="length") == len(answers) == 9
    assert value("request_success_total", finished_reason="embedded") == 3
    assert value("request_refused_total", reason="queue_full") == 1
    assert value("request_left_total") == 4
    assert value("time_to_first_token_seconds_count") == 9
    assert value("request_queue_time_seconds_sum") == pytest.approx(sum(e.queued for e in answers))
    assert value("num_requests_running") == 0
    (replica,) = found.service.snapshots()
    assert value("spec_decode_num_draft_tokens_total", replica=replica) >= sum(
        e.drafted_tokens for e in answers
    )
    assert value("spec_decode_num_accepted_tokens_total", replica=replica) > 0
    assert value("kv_cache_usage_perc", replica=replica) == 0

    after = client.get("/plan").json()
    measured = after["measured"]
    assert (measured["requests"], measured["output_tokens"]) == (12, 99)
    assert measured["prompt_tokens"] == sum(e.prompt_tokens for e in ends)
    assert measured["ttft"] == pytest.approx(sum(e.first_token for e in answers) / 9)
    assert measured["e2e"] == pytest.approx(sum(e.total for e in answers) / 9)
    rest = sum(e.total - e.first_token for e in answers)
    assert measured["tpot"] == pytest.approx(rest / (99 - 9))
    snapshot = found.service.snapshots()[replica]
    assert measured["step"] == pytest.approx(snapshot.step_seconds / snapshot.steps)
    assert after["workers"] == [replica]
    assert {**after, "measured": None, "workers": []} == {**before, "measured": None, "workers": []}


def test_it_says_what_is_on(served: tuple[Running, TestClient]) -> None:
    found, client = served
    told = client.get("/plan").json()
    assert told["given"]["techniques"] == USES
    assert told["given"] == found.service.plan.model_dump(mode="json", exclude_unset=True)
    (technique,) = told["techniques"]
    assert technique["params"] == {"gamma": 2, "number_copy": 10}
    assert technique["lossless"]
    assert told["derived"]["max_num_seqs"] == 4
    assert told["derived"]["cache_format"]
    assert told["memory"]["weights"] > 0
    assert (told["prediction"] is None) == bool(told["prediction_missing"])


def test_a_calibrated_machine_is_predicted(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, this_cpu: None
) -> None:
    plan = serving_plan(tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))
    found = describe(plan, 1, 100)
    assert found.missing is None
    assert found.prediction is not None
    assert "32 requests of 74 + 25 tokens" in found.prediction["load"]
    ttft = found.prediction["figures"]["ttft"]
    assert 0 < ttft["low"] < ttft["mid"] < ttft["high"]
    assert ttft["unit"] == "s"
    assert found.prediction["memory"]["total"] > 0
    about.Prediction(**found.prediction)
    alone = describe(plan, 2, 100)
    assert alone.prediction is None
    assert "2 share one" in (alone.missing or "")


def test_without_a_calibration_it_says_why(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path))
    found = describe(serving_plan(tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")), 1, 256)
    assert found.prediction is None
    assert "twofold calibrate" in (found.missing or "")
