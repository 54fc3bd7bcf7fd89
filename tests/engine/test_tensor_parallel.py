"""Models cut over two processes: the same text as from one, and nothing hangs or stays behind when one
ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from tests.engine.test_engine import prompts
from tests.models.tiny import tiny_hf_dir
from tests.test_invariants import USES, repetitive, uses
from tests.tiny import VOCAB, tiny_checkpoint, tiny_plan
from tests.waiting import PATIENCE, until

from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.leader import Leader
from twofold.engine.request import SamplingParams
from twofold.jobs.run import load_engine
from twofold.kernels.cpu import native
from twofold.kernels.cpu.threads import default_threads
from twofold.models.find import find_checkpoint
from twofold.models.loading import load_checkpoint
from twofold.models.registry import cached_path
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan

PARAMS = SamplingParams(max_tokens=16, ignore_eos=True)
LIMITS = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "kernels": "reference"}
needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built")
SCARCE = {"cache_blocks": 14, "preemption": "swap"}


@cache
def checkpoint_of(family: str) -> Checkpoint:
    """A tiny model; "uneven" has 9 heads in 3 groups, of which the ranks get 2 and 1."""
    if family != "uneven":
        return tiny_checkpoint(family)
    widths = {"hidden_size": 144, "num_attention_heads": 9, "num_key_value_heads": 3}
    return load_checkpoint(tiny_hf_dir("llama", Path(mkdtemp(prefix="twofold-uneven-")), **widths))


def load(family: str, tp: int, *, engine: dict[str, Any] | None = None, **changes: Any) -> Engine:
    plan = tiny_plan(parallel={"tp": tp}, engine={**LIMITS, **(engine or {})}, **changes)
    device = make_device("cpu", tp=tp, **plan.engine.device_options)
    checkpoint = checkpoint_of(family)
    ids = [(7 * i * i + 3 * i) % (VOCAB - 3) + 3 for i in range(96)]
    return build_engine(plan, device, checkpoint.spec, checkpoint, calibration=lambda: ids)


def texts(engine: Engine, asked: list[list[int]], params: SamplingParams = PARAMS) -> list[list[int]]:
    return [c.token_ids for c in engine.generate(asked, params)]


def leader_of(engine: Engine) -> Leader:
    rank = engine.runner.rank
    assert isinstance(rank, Leader)
    return rank


def follower_of(engine: Engine) -> int:
    """The process id of rank 1."""
    return leader_of(engine).followers.processes[0].pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# --- the same as one process ---


@pytest.fixture(scope="class")
def scarce() -> Iterator[Engine]:
    """Two ranks of the uneven model, with little memory for the cache."""
    with closing(load("uneven", 2, engine=SCARCE)) as engine:
        yield engine


class TestTwoRanks:
    """What one pair of processes yields."""

    def test_text_is_that_of_one_process(self, scarce: Engine) -> None:
        asked = prompts(6)
        for params in (
            PARAMS,
            SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.8, top_p=0.9, seed=5),
        ):
            assert texts(scarce, asked, params) == texts(load("uneven", 1), asked, params)

    def test_nothing_stays_on_disk(self, scarce: Engine) -> None:
        assert not leader_of(scarce).followers.folder.exists()

    def test_cache_blocks_are_swapped_on_all_ranks(self, scarce: Engine) -> None:
        asked = prompts(8, seed=3)
        before = scarce.scheduler.num_preempted
        params = SamplingParams(max_tokens=40, ignore_eos=True)
        assert texts(scarce, asked, params) == texts(load("uneven", 1), asked, params)
        assert scarce.scheduler.num_preempted > before

    def test_scores_and_embeddings_are_those_of_one_process(self, scarce: Engine) -> None:
        ids = prompts(1, seed=4, longest=90)[0] * 2
        one = load("uneven", 1)
        assert torch.allclose(scarce.score(ids, 3), one.score(ids, 3), atol=1e-3)
        vectors = []
        for engine in (scarce, one):
            request = engine.add(ids, pool=True)
            while engine.has_work:
                engine.step()
            vectors.append(torch.tensor(engine.output(request.id).vector))
        assert torch.allclose(*vectors, atol=1e-4)

    def test_rank_0_holds_what_is_predicted_and_counts_what_it_sends(self, scarce: Engine) -> None:
        model, memory = scarce.runner.model, scarce.memory
        assert model.allocated() == model.weight_bytes() == memory.weights
        assert sum(c.allocated for c in scarce.runner.caches) == memory.cache
        assert [c.heads.kv_heads for c in scarce.runner.caches] == [2, 2, 2]
        scarce.reset_totals()
        texts(scarce, [[5, 6, 7]], SamplingParams(max_tokens=2, ignore_eos=True))
        sent = scarce.device.totals["collective"]
        # Two steps of three layers: an all-reduce after attention and one after the MLP, then the logits.
        assert sent.calls == 2 * (2 * 3 + 1)
        reduced = 2 * 3 * (3 + 1) * 144 * 4  # 2 (n - 1) / n = 1 time each message
        gathered = 2 * 80 * 4
        assert sent.sent == reduced + gathered
        assert scarce.device.settings()["threads"] == max(1, default_threads() // 2)


@pytest.mark.parametrize(
    "family", ["gemma3", *(pytest.param(name, marks=pytest.mark.long) for name in ("qwen2", "gpt2"))]
)
@needs_native
def test_families_yield_the_text_of_one_process(family: str) -> None:
    asked, kernels = prompts(4, seed=1), {"kernels": "native-fp32"}
    with closing(load(family, 2, engine=kernels)) as engine:
        one = load(family, 1, engine=kernels)
        for _ in range(2):  # steps are recorded, then replayed
            assert texts(engine, asked) == texts(one, asked)
        left = set(engine.device.reference_ops)
        assert not left & {"AllReduce", "AllGather"}, "native kernels meet in shared memory"


def test_techniques_work_on_shards() -> None:
    names = ("copyspec", "gemfilter", "int-vs-fp", "kivi", "llm-drop", "sarathi")
    asked = repetitive(4) + prompts(2, seed=2)
    changes: dict[str, Any] = {"techniques": uses(*names), "engine": {"prefix_caching": False}}
    one = load("qwen3", 1, **changes)
    with closing(load("qwen3", 2, **changes)) as engine:
        assert texts(engine, asked) == texts(one, asked)
        engine.check_techniques()
        assert engine.totals.accepted == one.totals.accepted > 0
        counted = [{a.technique.info.name: a.counters for a in e.actives} for e in (engine, one)]
        assert counted[0]["gemfilter"] == counted[1]["gemfilter"]


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(USES))
def test_every_technique_works_on_shards_or_is_refused(name: str) -> None:
    asked = repetitive(2) + prompts(2, seed=2)
    try:
        engine = load("qwen3", 2, techniques=uses(name), engine={"prefix_caching": False})
    except ValueError:  # refused, with a reason that names what to do
        return
    with closing(engine):
        got = texts(engine, asked)
        assert all(len(ids) == PARAMS.max_tokens for ids in got)
        engine.check_techniques()


@pytest.mark.parametrize("name", ["snapkv", pytest.param("elastic-cache", marks=pytest.mark.long)])
def test_entries_are_dropped_on_every_shard(name: str) -> None:
    changes: dict[str, Any] = {"techniques": uses(name, "copyspec"), "engine": SCARCE}
    asked = repetitive(4) + prompts(2, seed=2)
    one = load("qwen3", 1, **changes)
    with closing(load("qwen3", 2, **changes)) as engine:
        assert texts(engine, asked) == texts(one, asked)
        engine.check_techniques()
        for counted in (e.actives[0].counters for e in (engine, one)):
            assert counted["dropped"] > 100


@pytest.mark.model
@needs_native
@pytest.mark.skipif(
    cached_path("smollm2-135m") is None, reason="the model is not here: twofold pull smollm2-135m"
)
def test_the_real_model_yields_the_text_of_one_process() -> None:
    checkpoint = find_checkpoint("smollm2-135m")
    asked = ["The capital of France is", "Once upon a time", "def fibonacci(n):"]
    found, weights = [], []
    for tp in (1, 2):
        limits = {"kernels": "native-fp32", "max_context": 128, "max_num_seqs": 2, "cache_format": "f32"}
        plan = Plan.from_dict({"model": "smollm2-135m", "parallel": {"tp": tp}, "engine": limits})
        with closing(load_engine(plan, checkpoint)) as engine:
            found.append([c.text for c in engine.generate(asked, PARAMS)])
            weights.append(engine.runner.model.allocated())
            assert weights[-1] == engine.memory.weights
    assert found[0] == found[1]
    assert weights[0] / 2 < weights[1] < 0.7 * weights[0]


# --- ends ---


@pytest.mark.parametrize("kernels", ["reference", pytest.param("native-fp32", marks=needs_native)])
def test_a_follower_that_dies_is_an_error_and_not_a_wait(kernels: str) -> None:
    with closing(load("llama", 2, engine={"kernels": kernels})) as engine:
        pid = follower_of(engine)
        os.kill(pid, signal.SIGSTOP)  # rank 0 comes to the first collective and waits there
        killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(RuntimeError, match="rank 1 failed: it ended with exit code -9"):
            texts(engine, [[5, 6, 7]])
        killer.join()
        with pytest.raises(RuntimeError, match="stopped working together: rank 1"):
            engine.runner.rank.release(0)


def test_what_goes_wrong_on_a_follower_is_said_on_rank_0() -> None:
    with closing(load("llama", 2)) as engine:
        pid, leader = follower_of(engine), leader_of(engine)
        with pytest.raises(ValueError, match="already"):
            load("llama", 2)
        with leader.followers.doing("no_such_thing"):
            pass
        with pytest.raises(RuntimeError, match=r"rank 1 failed: AttributeError: .*'no_such_thing'"):
            texts(engine, [[5, 6, 7]])
        until(lambda: not is_alive(pid))


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
from twofold.jobs.run import load_engine
from twofold.models.loading import load_checkpoint
from twofold.plan import Plan
plan = Plan.from_dict({"model": sys.argv[1], "parallel": {"tp": 2}, "engine": {"kernels": "reference"}})
engine = load_engine(plan, load_checkpoint(sys.argv[1]))
engine.generate([[5, 6, 7]])
print(engine.runner.rank.followers.processes[0].pid, flush=True)
time.sleep(600)
"""


def test_followers_end_with_rank_0() -> None:
    command = [sys.executable, "-c", SCRIPT, checkpoint_of("llama").path]
    leaders = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in "kc"
    ]
    for leader, how in zip(leaders, (signal.SIGKILL, signal.SIGINT), strict=True):
        assert leader.stdout is not None
        pid = int(leader.stdout.readline())
        assert is_alive(pid)
        leader.send_signal(how)
        leader.wait(PATIENCE)
        until(lambda: not is_alive(pid))  # noqa: B023


# --- what is refused ---


@pytest.mark.parametrize("cut", [{"pp": 2}, {"dp": 2}, {"tp": 2, "ep": 2}])
def test_other_ways_to_cut_are_for_predictions(cut: dict[str, int]) -> None:
    plan = tiny_plan(parallel=cut)
    with pytest.raises(ValueError, match="can be predicted"):
        load_engine(plan, checkpoint_of("llama"))


def test_heads_that_cannot_be_shared_are_said_before_anything_is_started() -> None:
    with pytest.raises(ValueError, match=r"4 heads in 2 KV groups, which 3 devices .* \[1, 2, 4\]"):
        load("llama", 3)
