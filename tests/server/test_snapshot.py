"""Snapshots: every figure is what the engine did, and the prediction is charged with the batches that ran."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.engine.test_engine import prompts
from tests.test_invariants import repetitive, uses
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan
from tests.waiting import PATIENCE

from twofold.devices.catalog import get_device, this_cpu_path
from twofold.devices.cpu_device import CpuDevice
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.steps import StepPredictor
from twofold.ops.attention import Span
from twofold.server import snapshot as module
from twofold.server.snapshot import Snapshot, Watch

PARAMS = SamplingParams(max_tokens=20, ignore_eos=True)


def watched(engine: Engine, watch: Watch) -> list[Snapshot]:
    """A snapshot after every step until nothing is left."""
    seen = []
    while engine.has_work:
        engine.step()
        watch.observe()
        seen.append(watch.snapshot())
    return seen


def test_figures_are_those_of_the_engine() -> None:
    engine = tiny_engine(techniques=uses("copyspec"))
    watch = Watch(engine, tiny_plan())
    before = watch.snapshot()
    assert (before.steps, before.recent_step, before.ttft, before.tokens_per_s) == (0, None, None, None)
    asked = repetitive(6)
    requests = [engine.add(ids, PARAMS) for ids in asked]
    assert watch.snapshot().waiting == 6
    seen = watched(engine, watch)
    last, blocks = seen[-1], engine.scheduler.blocks
    assert {s.running for s in seen} >= {4, 0}
    assert max(s.used_blocks for s in seen) == engine.totals.peak_blocks <= last.num_blocks
    assert last.steps == len(seen) == engine.totals.steps
    assert last.step_seconds == pytest.approx(engine.totals.busy_seconds)
    assert last.output_tokens == sum(r.num_output_tokens for r in requests) == 120
    assert [s.output_tokens for s in seen] == sorted({s.output_tokens for s in seen})
    assert last.prompt_tokens == sum(map(len, asked)) - last.prefix_hits
    assert (last.prefix_hits, last.prefix_queries) == (blocks.hit_tokens, blocks.lookup_tokens)
    assert last.cached_blocks == blocks.num_cached > 0
    assert sum(last.drafted) == engine.totals.drafted > sum(last.accepted) > 0
    assert last.techniques == {"copyspec": engine.actives[0].counters}
    waits = [(r.first_token_time or 0.0) - r.arrival_time for r in requests]
    assert last.ttft == pytest.approx(sum(waits) / 6)
    assert last.memory["cache_used"] == 0 < seen[3].memory["cache_used"] < last.memory["cache"]
    assert last.moved == {kind: spent.bytes_moved for kind, spent in engine.device.totals.items()}
    assert last.moved["linear"] > seen[0].moved["linear"] > 0


def test_the_recent_speed_is_tokens_by_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT_STEPS", 5)
    engine = tiny_engine()
    watch = Watch(engine, tiny_plan())
    engine.add([5] * 10, PARAMS)
    seen = watched(engine, watch)
    recent = [b.step_seconds - a.step_seconds for a, b in zip(seen[-6:-1], seen[-5:], strict=True)]
    assert seen[-1].last_step == pytest.approx(recent[-1])
    assert seen[-1].recent_step == pytest.approx(sum(recent) / 5)
    assert seen[-1].tokens_per_s == pytest.approx(5 / sum(recent))


def test_without_a_calibration_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path))
    engine = tiny_engine()
    watch = Watch(engine, tiny_plan(device="cpu"))
    engine.add([5], PARAMS)
    last = watched(engine, watch)[-1]
    assert (last.predicted_seconds, last.last_predicted, last.recent_predicted) == (None, None, None)
    assert "twofold calibrate" in (last.prediction_missing or "")
    elsewhere = Watch(engine, tiny_plan(device="cuda")).snapshot().prediction_missing
    assert elsewhere is not None
    assert "runs on cuda" in elsewhere


@pytest.fixture
def this_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device file stands where a calibration would write it."""
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path))
    path = this_cpu_path()
    path.parent.mkdir(parents=True)
    file = get_device("xeon-6154").model_copy(update={"name": "this-cpu", "confidence": "calibrated"})
    path.write_text(yaml.safe_dump(file.model_dump(mode="json", exclude={"generation"})), encoding="utf-8")


@pytest.mark.usefixtures("this_cpu")
def test_every_batch_is_predicted_as_it_ran() -> None:
    """Prompts in chunks, drafts that are verified and decodes, each charged with its own shape."""
    engine = tiny_engine(techniques=uses("copyspec"))
    plan = tiny_plan(device="cpu", techniques=uses("copyspec"))
    watch = Watch(engine, plan)
    model = StepPredictor(plan, "this-cpu", spec=tiny_checkpoint().spec)
    for ids in [*repetitive(3), *prompts(3, longest=150)]:
        engine.add(ids, PARAMS)
    expected = []
    shapes = set()
    while engine.has_work:
        engine.step()
        watch.observe()
        assert engine.newest is not None
        batch = engine.newest.batch
        spans = [Span(e.num_tokens, e.num_keys) for e in batch.entries]
        wanted = sum(1 + e.num_drafts for e in batch.entries if e.samples)
        expected.append(model.step(spans, wanted).seconds)
        shapes.add((bool(batch.num_prefills), batch.num_decode_tokens > batch.num_decodes))
        # Decodes keep the prediction of an earlier step of theirs, with a few keys less.
        exact = batch.num_prefills or batch.num_decode_tokens > batch.num_decodes
        near = pytest.approx(expected[-1], rel=None if exact else 0.01)
        assert watch.snapshot().last_predicted == near
    assert shapes >= {(False, False), (False, True), (True, False)}
    last = watch.snapshot()
    assert last.predicted_seconds == pytest.approx(sum(expected), rel=0.01)
    recent = expected[-64:]
    assert last.recent_predicted == pytest.approx(sum(recent) / len(recent), rel=0.01)
    assert last.prediction_missing is None


def test_filter_passes_are_no_batches() -> None:
    engine = tiny_engine(techniques=uses("gemfilter"))
    watch = Watch(engine, tiny_plan())
    engine.add(prompts(1, longest=60)[0] * 4, PARAMS)
    last = watched(engine, watch)[-1]
    assert engine.totals.steps == last.steps + 1
    assert last.techniques["gemfilter"]["prompts_filtered"] == 1


def test_a_request_begun_anew_counts_once() -> None:
    engine = tiny_engine(engine={"cache_blocks": 12, "max_num_seqs": 4, "max_num_batched_tokens": 32})
    watch = Watch(engine, tiny_plan())
    for ids in prompts(6, seed=3):
        engine.add(ids, SamplingParams(max_tokens=40, ignore_eos=True))
    last = watched(engine, watch)[-1]
    assert last.preemptions > 0
    assert len(watch._ttft) == 6
    assert last.output_tokens == 240


def test_snapshots_travel_without_torch() -> None:
    watch = Watch(tiny_engine(device=CpuDevice(kernels="reference")), tiny_plan())
    data = pickle.dumps(watch.snapshot())
    script = "import pickle, sys; pickle.loads(sys.stdin.buffer.read()); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], input=data, check=True, timeout=PATIENCE)
