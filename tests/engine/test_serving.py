"""Serving profiles: defaults that a plan overrides, and what host and frontend add to a prediction."""

from __future__ import annotations

import pytest

from twofold.devices.base import StepCost
from twofold.devices.efficiency.kernels import USUAL
from twofold.devices.registry import make_device
from twofold.engine import build, serving_profile
from twofold.engine.arrivals import Arrivals
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.host import Host
from twofold.engine.request import Request, SamplingParams
from twofold.engine.serving_profile import ServingProfile, get_serving, served, serving_names
from twofold.models.catalog import get_spec
from twofold.plan import Plan

MODEL, DEVICE = "llama-3.2-1b", "a100-80g-sxm"


def profile(
    *, host: dict[str, object] | None = None, front: dict[str, float] | None = None
) -> ServingProfile:
    """A profile whose every figure is 0 but those given."""
    work = {"step": 0, "sequence": 0, "token": 0, "launch": 0, "graph_seqs": 512, **(host or {})}
    overlapped = bool(work.pop("overlapped", False))
    ways = {"request": 0, "prompt_token": 0, "streamed_token": 0, "response": 0, **(front or {})}
    figures = [{k: {"value": v, "source": "test"} for k, v in part.items()} for part in (work, ways)]
    return ServingProfile(
        name="test",
        title="test",
        sources={"test": "made up"},
        host={**figures[0], "overlapped": overlapped},  # type: ignore[arg-type]
        frontend=figures[1],  # type: ignore[arg-type]
    )


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Plays four requests of 64 + 16 tokens, two at a time, with a profile (None: plain)."""

    def run(used: ServingProfile | None, concurrency: int = 2) -> tuple[Engine, list[Request]]:
        if used is not None:
            monkeypatch.setattr(serving_profile, "get_serving", lambda name: used)
            monkeypatch.setattr(build, "get_serving", lambda name: used)
        engine_plan = {"serving": "plain" if used is None else "test", "max_num_seqs": 8}
        plan = Plan.from_dict({"model": MODEL, "engine": engine_plan})
        engine = build_engine(plan, make_device(DEVICE), get_spec(MODEL))
        params = SamplingParams(max_tokens=16, ignore_eos=True)
        return engine, engine.play([(0.0, 64, params)] * 4, concurrency=concurrency)

    return run


def tpot(requests: list[Request]) -> float:
    """Mean seconds per token after the first."""
    return sum(r.last_token_time - r.first_token_time for r in requests) / 15 / len(requests)  # type: ignore[operator]


def ttft(requests: list[Request]) -> float:
    """Mean seconds to the first token."""
    return sum(r.first_token_time - r.arrival_time for r in requests) / len(requests)  # type: ignore[operator]


def test_work_between_steps_adds_to_each_exactly(play) -> None:  # type: ignore[no-untyped-def]
    _, plain = play(None)
    _, hosted = play(profile(host={"step": 0.003, "sequence": 0.0005}))
    assert tpot(hosted) - tpot(plain) == pytest.approx(0.003 + 2 * 0.0005, rel=1e-6)


def test_shorter_work_beside_a_step_is_hidden_and_longer_work_is_not(play) -> None:  # type: ignore[no-untyped-def]
    _, plain = play(None)
    _, hidden = play(profile(host={"step": 1e-4, "overlapped": True}))
    _, bound = play(profile(host={"step": 0.5, "overlapped": True}))
    assert tpot(hidden) == pytest.approx(tpot(plain))
    assert tpot(bound) == pytest.approx(0.5)


def test_without_a_graph_a_step_takes_at_least_its_launches() -> None:
    cost = StepCost(0.01, 2.0, [0.004, 0.006], launches=100)
    host = Host(profile(host={"launch": 2e-4, "graph_seqs": 8}), idle_watts=50.0)
    assert host.step(cost, seqs=8, tokens=8, prefills=0).seconds == pytest.approx(0.01)
    for seqs, prefills in ((9, 0), (2, 1)):
        launched = host.step(cost, seqs=seqs, tokens=64, prefills=prefills)
        assert launched.seconds == pytest.approx(0.02)
        assert sum(launched.stages) == pytest.approx(0.02)
        assert launched.joules == pytest.approx(2.0 + 0.01 * 50.0)


def test_the_way_in_and_out_counts_in_ttft_alone(play) -> None:  # type: ignore[no-untyped-def]
    _, plain = play(None, concurrency=1)
    _, served_by = play(
        profile(front={"request": 0.002, "prompt_token": 1e-5, "response": 0.004}), concurrency=1
    )
    assert ttft(served_by) - ttft(plain) == pytest.approx(0.002 + 64e-5 + 0.004, rel=1e-6)
    assert tpot(served_by) == pytest.approx(tpot(plain))


def test_an_overlapped_step_does_not_see_what_arrives_while_it_is_prepared(play) -> None:  # type: ignore[no-untyped-def]
    way = {"request": 1e-5}
    _, waiting = play(profile(front=way))
    _, ahead = play(profile(host={"overlapped": True}, front=way))
    assert ttft(ahead) > ttft(waiting)


def test_tokens_are_handed_out_no_faster_than_the_frontend_can(play) -> None:  # type: ignore[no-untyped-def]
    _, slow = play(profile(front={"streamed_token": 0.25}))
    ends = max(r.last_token_time for r in slow)
    assert ends >= 4 * 16 * 0.25
    assert ends == pytest.approx(4 * 16 * 0.25, rel=0.05)


def test_a_client_sends_when_it_has_its_answer() -> None:
    params = SamplingParams(max_tokens=1)
    arrivals = Arrivals([(0.0, 8, params)] * 3, 0.0, 1, None)
    assert [item[0] for item in arrivals.seen(0.0, 0.0)] == [0.0]
    assert arrivals.pending
    assert arrivals.next_time() == float("inf")
    request = Request(0, 8, params)
    request.last_token_time = 2.5
    arrivals.ended(request, 2.0)
    assert arrivals.next_time() == 2.5
    assert not list(arrivals.seen(2.0, 2.0))
    assert [item[0] for item in arrivals.seen(3.0, 3.0)] == [2.5]


def test_defaults_of_the_software_hold_where_the_plan_is_silent() -> None:
    filled = served(Plan.from_dict({"model": MODEL, "engine": {"serving": "vllm", "block_size": 32}})).engine
    assert (filled.max_num_seqs, filled.max_num_batched_tokens, filled.block_size) == (1024, 8192, 32)
    assert served(Plan.from_dict({"engine": {"serving": "sglang"}})).engine.policy == "prefill-first"
    given = Plan.from_dict({"engine": {"serving": "trtllm", "chunked_prefill": True}})
    assert served(given).engine.chunked_prefill
    assert served(Plan()) == Plan()


def test_what_was_decided_shows(play) -> None:  # type: ignore[no-untyped-def]
    plan = Plan.from_dict({"model": MODEL, "engine": {"serving": "trtllm", "max_num_seqs": 4}})
    derived = build_engine(plan, make_device(DEVICE), get_spec(MODEL)).derived
    assert derived["serving"] == "trtllm"
    assert (derived["max_num_seqs"], derived["max_num_batched_tokens"], derived["block_size"]) == (
        4,
        8192,
        32,
    )


def test_every_profile_reads_and_an_unknown_name_gets_the_nearest() -> None:
    assert {"plain", "vllm", "trtllm", "sglang", "gpt-fast"} <= set(serving_names())
    for name in serving_names():
        assert get_serving(name).name == name
    with pytest.raises(ValueError, match="did you mean 'vllm'"):
        get_serving("vlm")


def test_a_figure_names_its_source() -> None:
    with pytest.raises(ValueError, match="step names source 'nowhere'"):
        ServingProfile(
            name="x",
            title="x",
            sources={"here": "…"},
            host={
                "step": {"value": 0, "source": "nowhere"},
                **{k: {"value": 0, "source": "here"} for k in ("sequence", "token", "launch", "graph_seqs")},
                "overlapped": False,
            },  # type: ignore[arg-type]
        )


def test_kernels_are_the_software_s_and_of_a_generation() -> None:
    own = get_serving("trtllm-offline")
    assert own.kernels_on("hopper").narrow > 1.0
    assert own.kernels_on("ampere") == get_serving("vllm").kernels_on("hopper") == USUAL


def test_a_device_uses_the_kernels_of_the_software_that_was_built_last() -> None:
    device = make_device("h100-sxm")
    engine = {"weights": "fp8", "cache_format": "fp8", "max_num_seqs": 512}
    took = []
    for name in ("plain", "trtllm-offline", "plain"):
        plan = Plan.from_dict({"model": MODEL, "engine": {**engine, "serving": name}})
        built = build_engine(plan, device, get_spec(MODEL))
        assert device.kernels == get_serving(name).kernels_on("hopper")  # type: ignore[union-attr]
        device.totals = {}
        params = SamplingParams(max_tokens=4, ignore_eos=True)
        built.play([(0.0, 512, params)] * 32)
        took.append(sum(total.seconds for total in device.totals.values()))
    assert took[1] < took[0] == took[2]


def test_a_source_of_a_kernel_must_exist() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        ServingProfile.model_validate(
            {
                "name": "x",
                "title": "x",
                "kernels": {"hopper": {"narrow": {"value": 1.1, "source": "nowhere"}}},
            }
        )
