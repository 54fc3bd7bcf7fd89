"""The loop of a worker, in this process: what commands bring about, and what a failing step leaves behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from tests.models.tiny import tiny_gguf
from tests.tiny import tiny_plan

from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.integrity import IntegrityError, check
from twofold.engine.sampling_params import SamplingParams
from twofold.models.loading import load_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.server.messages import Cancel, Embed, Embedded, Ended, Failed, Generate, Status, Stop
from twofold.server.snapshot import Snapshot, Watch
from twofold.server.worker_loop import UnsoundError, WorkerLoop

PROMPT = tuple(range(10, 40))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


class Line:
    """Gives `batches` of commands, one per turn, then Stop; keeps what is sent."""

    def __init__(self, *batches: Sequence[Any]) -> None:
        self.batches = [list(batch) for batch in batches]
        self.sent: list[list[Any]] = []

    def receive(self, timeout: float | None = 0.0) -> list[Any]:
        if self.batches:
            return self.batches.pop(0)
        return [Stop()]

    def send(self, messages: Sequence[object]) -> None:
        self.sent.append(list(messages))

    @property
    def events(self) -> dict[str, list[Any]]:
        """What was said of each request."""
        found = defaultdict(list)
        for batch in self.sent:
            for event in batch:
                if not isinstance(event, Status):
                    found[event.id].append(event)
        return found


def make(checkpoint: Checkpoint, line: Line, **changes: object) -> tuple[Engine, WorkerLoop]:
    plan = tiny_plan(**changes)
    engine = build_engine(plan, TorchDevice("cpu"), checkpoint.spec, checkpoint)
    return engine, WorkerLoop(engine, line, Watch(engine, plan))


def clean(engine: Engine) -> None:
    """Nothing of any request is left."""
    check(engine.scheduler)
    assert not engine.has_work
    assert not engine._outputs
    assert engine.scheduler.blocks.num_used == 0
    assert not engine.runner._rows


def test_text_and_tokens_arrive_in_pieces_that_join_to_the_answer(checkpoint: Checkpoint) -> None:
    params = SamplingParams(max_tokens=24, ignore_eos=True, logprobs=2)
    line = Line([Generate("a", PROMPT, params), Generate("b", PROMPT[:7], params)])
    engine, loop = make(checkpoint, line)
    alone = engine.generate([PROMPT, PROMPT[:7]], params)
    loop.run()
    for id, expected in zip("ab", alone, strict=True):
        *chunks, ended = line.events[id]
        assert "".join(chunk.text for chunk in chunks) == expected.text
        assert sum(chunk.num_tokens for chunk in chunks) == 24
        infos = [token for chunk in chunks for token in chunk.tokens]
        assert [token.id for token in infos] == expected.token_ids
        assert all(len(token.top) == 2 and token.logprob <= 0 for token in infos)
        assert isinstance(ended, Ended)
        assert (ended.reason, ended.output_tokens) == ("length", 24)
        assert 0 <= ended.queued <= ended.first_token <= ended.total
    assert max(len(batch) for batch in line.sent) >= 2, "events of a step travel together"
    clean(engine)


def test_what_ended_a_completion_is_said(checkpoint: Checkpoint) -> None:
    plain = SamplingParams(max_tokens=24, ignore_eos=True)
    engine, _ = make(checkpoint, Line())
    [answer] = engine.generate([PROMPT], plain)
    token = answer.token_ids[5]
    piece = answer.text[8:10]
    line = Line(
        [
            Generate("token", PROMPT, SamplingParams(max_tokens=24, stop_token_ids=frozenset({token}))),
            Generate("string", PROMPT, SamplingParams(max_tokens=24, ignore_eos=True, stop=(piece, "zzz"))),
        ]
    )
    engine, loop = make(checkpoint, line)
    loop.run()
    assert line.events["token"][-1].stop == token
    *chunks, ended = line.events["string"]
    assert (ended.reason, ended.stop) == ("stop", piece)
    assert "".join(chunk.text for chunk in chunks) == answer.text[: answer.text.index(piece)]


def test_a_cancelled_request_is_answered_at_once(checkpoint: Checkpoint) -> None:
    long = SamplingParams(max_tokens=100, ignore_eos=True)
    jobs = [Generate(f"r{i}", PROMPT, long) for i in range(6)]  # four run, two wait
    line = Line(jobs, [], [Cancel("r0"), Cancel("r5"), Cancel("unknown")], [Cancel("r0")])
    engine, loop = make(checkpoint, line)
    loop.run()
    events = line.events
    assert [type(e) for e in events["r5"]] == [Ended]
    for id in ("r0", "r5"):
        assert events[id][-1].reason == "cancelled"
        assert len([e for e in events[id] if isinstance(e, Ended)]) == 1
    assert all(events[f"r{i}"][-1].output_tokens == 100 for i in range(1, 5))
    assert "unknown" not in events
    clean(engine)


def test_cancelled_before_its_prompt_was_filtered(checkpoint: Checkpoint) -> None:
    short = SamplingParams(max_tokens=4, ignore_eos=True)
    jobs = [Generate(f"r{i}", tuple(range(10, 110)), short) for i in range(3)]
    line = Line([*jobs, Cancel("r2")], [Cancel("r1")])
    engine, loop = make(checkpoint, line, techniques=[{"name": "gemfilter", "keep": 16, "layer": 1}])
    loop.run()
    assert line.events["r0"][-1].reason == "length"
    assert [e.reason for e in line.events["r2"]] == ["cancelled"]
    assert line.events["r1"][-1].reason == "cancelled"
    clean(engine)


def test_what_can_never_run_is_refused(checkpoint: Checkpoint) -> None:
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    line = Line(
        [
            Generate("empty", (), params),
            Generate("long", (5,) * 300, params),
            Generate("foreign", (1 << 20,), params),
            Generate("fine", PROMPT, params),
        ]
    )
    engine, loop = make(checkpoint, line)
    loop.run()
    for id in ("empty", "long", "foreign"):
        [failed] = line.events[id]
        assert isinstance(failed, Failed)
        assert failed.kind == "invalid"
    assert isinstance(line.events["fine"][-1], Ended)
    clean(engine)


def test_embeddings_go_beside_completions(checkpoint: Checkpoint) -> None:
    line = Line([Generate("a", PROMPT, SamplingParams(max_tokens=9, ignore_eos=True)), Embed("e", PROMPT)])
    engine, loop = make(checkpoint, line)
    loop.run()
    [embedded] = line.events["e"]
    assert isinstance(embedded, Embedded)
    assert (len(embedded.vector), embedded.prompt_tokens) == (256, len(PROMPT))
    clean(engine)


def test_a_failed_step_fails_what_ran_and_nothing_else(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    line = Line(
        [Generate("a", PROMPT, params), Generate("b", PROMPT[:9], params)],
        [],
        [],
        [],
        [Generate("c", PROMPT, params)],
    )
    engine, loop = make(checkpoint, line)
    [expected] = engine.generate([PROMPT], params)
    _fail(engine, monkeypatch, at=[3])
    loop.run()
    for id in "ab":
        *chunks, failed = line.events[id]
        assert chunks
        assert isinstance(failed, Failed)
        assert failed.kind == "internal"
    *chunks, ended = line.events["c"]
    assert isinstance(ended, Ended)
    assert "".join(chunk.text for chunk in chunks) == expected.text
    clean(engine)
    assert "RuntimeError: planned" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("planned"), IntegrityError("planned")])
def test_an_engine_that_cannot_be_trusted_is_given_up(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    line = Line([Generate("a", PROMPT, params)], [Generate("b", PROMPT, params)])
    engine, loop = make(checkpoint, line)
    _fail(engine, monkeypatch, at=range(100), error=error)
    with pytest.raises(UnsoundError, match="planned"):
        loop.run()
    told = [id for id, events in line.events.items() if isinstance(events[-1], Failed)]
    assert told == (["a"] if isinstance(error, IntegrityError) else ["a", "b"])


def test_an_idle_engine_is_checked_and_reports(checkpoint: Checkpoint) -> None:
    line = Line([Generate("a", PROMPT, SamplingParams(max_tokens=2, ignore_eos=True))], [], [], [])
    engine, loop = make(checkpoint, line)
    loop.run()
    report = line.sent[-1][0]
    assert isinstance(report, Status)
    assert isinstance(report.snapshot, Snapshot)
    assert (report.snapshot.used_blocks, report.snapshot.output_tokens) == (0, 2)
    engine.scheduler.blocks._free.pop()
    line.batches = [[], []]
    loop._stopping = False
    with pytest.raises(IntegrityError, match="lost"):
        loop.run()


def _fail(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, *, at: Sequence[int], error: Exception | None = None
) -> None:
    """Let the forward passes with these numbers fail in the middle, when a layer has written its cache."""
    layer = engine.runner.model.layers[-1]
    mlp, count = layer.mlp, iter(range(1 << 30))

    def broken(*args: Any, **options: Any) -> Any:
        if next(count) in at:
            raise error or RuntimeError("planned")
        return mlp(*args, **options)

    monkeypatch.setattr(layer, "mlp", broken)
