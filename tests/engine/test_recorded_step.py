"""A step that is replayed gives what the same step gives op by op: tokens, logits and counted work, for every
technique; and it costs no Python for what is native."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.devices.fake_native import fake_device
from tests.engine.test_engine import prompts
from tests.test_invariants import ON_ONE, USES, repetitive, uses
from tests.tiny import tiny_engine
from torch.utils._python_dispatch import TorchDispatchMode

from twofold.devices import cpu_device
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.torch_device import TorchDevice
from twofold.engine.active import Active
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.kernels.cpu.recorded import PythonCall, Recording
from twofold.kernels.registry import REFERENCE
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.elementwise import Activate, AddNorm, Norm, RotaryQKV
from twofold.techniques.registry import make_technique

LIMITS = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256}
GREEDY = SamplingParams(max_tokens=24, ignore_eos=True)
FAMILIES = ["llama", "gemma3", "mixtral", "qwen2_moe", "gpt2", "opt"]
needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built here")


def tokens_of(engine: Engine) -> list[list[int]]:
    asked = repetitive(3) + prompts(3, seed=4)
    return [completion.token_ids for completion in engine.generate(asked, GREEDY)]


def recordings(device: CpuDevice) -> list[Recording]:
    return list(device._recordings.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_tokens(family: str) -> None:
    device = fake_device()
    engine = tiny_engine(family, device=device)
    assert tokens_of(engine) == tokens_of(tiny_engine(family))
    assert sum(r.program.runs for r in recordings(device)) > 50


@pytest.mark.parametrize("name", ON_ONE)
def test_every_technique_gives_the_same_tokens(name: str) -> None:
    device = fake_device()
    engine = tiny_engine(device=device, techniques=uses(name))
    plain = tiny_engine(techniques=uses(name))
    assert tokens_of(engine) == tokens_of(plain)
    engine.check_techniques()
    assert sum(r.program.runs for r in recordings(device)) > 20
    assert [counted(a) for a in engine.actives] == [counted(a) for a in plain.actives]


def counted(active: Active) -> dict[str, int]:
    """Its counters, but for that of ops made: those of a recording are made once."""
    return {name: count for name, count in active.counters.items() if name != "ops_made"}


@pytest.mark.parametrize(("name", "family"), [*((n, "llama") for n in ("", *ON_ONE)), ("", "gemma3")])
def test_replayed_work_is_counted_like_executed_work(name: str, family: str) -> None:
    techniques = uses(name) if name else []
    totals = []
    for device in (fake_device(), TorchDevice("cpu")):
        engine = tiny_engine(family, device=device, techniques=techniques)
        engine.reset_totals()
        tokens_of(engine)
        totals.append(engine.device.totals)
    recorded, eager = totals
    assert recorded.keys() == eager.keys()
    for kind, expected in eager.items():
        assert recorded[kind].calls == expected.calls, kind
        for part in ("flop", "vector_flop", "bytes_moved", "sent"):
            assert getattr(recorded[kind], part) == pytest.approx(getattr(expected, part), rel=1e-9), kind


def decode(engine: Engine, keys: int = 5) -> StepInput:
    """A step of one sequence with one new token, whose entries lie in block 0."""
    one = torch.tensor
    return StepInput(
        [Span(1, keys)], 1, 1, one([7]), one([keys - 1]), one([keys - 1]), None, [0], one([0]), [0], [[0]], 16
    )


def test_a_replayed_step_calls_python_for_nothing_but_what_lacks_a_native_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = fake_device()
    engine = tiny_engine(device=device)
    model = engine.runner.model
    for _ in range(2):
        device.forward(model, decode(engine))
    (recording,) = recordings(device)
    eager = TorchDevice("cpu")
    eager.begin_step()
    model.forward(decode(engine), eager)
    native_ops = (Norm, AddNorm, RotaryQKV, Activate)
    others = [type(op).__name__ for op in eager._ops if not isinstance(op, native_ops)]
    assert recording.reference_ops == Counter(others)
    assert len(recording.program) == len(eager._ops) - len(others)
    called: list[str] = []
    call = PythonCall.__call__

    def counted(self: PythonCall) -> None:
        called.append(str(self.op))
        call(self)

    monkeypatch.setattr(PythonCall, "__call__", counted)
    monkeypatch.setattr(device, "execute", lambda *_: pytest.fail("an op was executed"))
    device.reset_totals()
    device.forward(model, decode(engine, 6))
    assert called == others
    assert device.reference_ops.total() == len(others)


def test_logits_follow_the_step_that_is_given() -> None:
    device = fake_device()
    engine = tiny_engine(device=device)
    model, plain = engine.runner.model, TorchDevice("cpu")
    for keys in (5, 6, 9, 3, 12):
        expected = model.forward(decode(engine, keys), plain)
        assert torch.equal(device.forward(model, decode(engine, keys)), expected)
    assert len(recordings(device)) == 1


def test_reallocated_caches_are_recorded_anew() -> None:
    device = fake_device()
    engine = tiny_engine(device=device)
    model = engine.runner.model
    for _ in range(3):
        device.forward(model, decode(engine))
    (old,) = recordings(device)
    for cache in model.caches:
        cache.allocate(engine.runner.size, torch.device("cpu"))
    expected = model.forward(decode(engine), TorchDevice("cpu"))
    for _ in range(3):
        assert torch.equal(device.forward(model, decode(engine)), expected)
    (new,) = recordings(device)
    assert new is not old


def test_recordings_go_with_their_model() -> None:
    device = fake_device()
    kept, gone = tiny_engine(device=device), tiny_engine("gemma3", device=device)
    for engine in (kept, gone, kept, gone, kept, gone):
        device.forward(engine.runner.model, decode(engine))
    assert len(recordings(device)) == 2
    del engine, gone
    gc.collect()
    assert len(recordings(device)) == 1
    assert tokens_of(kept) == tokens_of(tiny_engine())


def test_an_error_in_the_middle_leaves_the_device_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    device = fake_device(Norm, AddNorm)
    engine = tiny_engine(device=device)
    model = engine.runner.model
    expected = model.forward(decode(engine), TorchDevice("cpu"))
    fail = [False]
    kernel = REFERENCE[Activate]

    def failing(*args: Any) -> Any:
        if fail[0]:
            raise RuntimeError("no more")
        return kernel(*args)

    monkeypatch.setitem(REFERENCE, Activate, failing)
    for replayed in (False, True):  # while it is recorded, and while it is replayed
        device.forward(model, decode(engine))
        fail[0] = True
        with pytest.raises(RuntimeError, match="no more"):
            device.forward(model, decode(engine))
        fail[0] = False
        device._seen.clear()
        for _ in range(3 if replayed else 2):
            assert torch.equal(device.forward(model, decode(engine)), expected)
    assert len(recordings(device)) == 1


def growing(engine: Engine) -> list[list[int]]:
    """Tokens of batches of one to four requests: as many shapes of decoding steps."""
    return [c.token_ids for n in (1, 2, 3, 4) for c in engine.generate(prompts(n, seed=n), GREEDY)]


def test_recordings_keep_within_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = growing(tiny_engine())

    def sizes_of(most: int) -> list[int]:
        monkeypatch.setattr(cpu_device, "MOST_BYTES", most)
        device = fake_device()
        engine = tiny_engine(device=device)
        assert growing(engine) == expected
        return [r.nbytes for r in recordings(device)]

    sizes = sizes_of(1 << 30)
    assert len(sizes) >= 4
    most = max(sizes) + min(sizes)
    assert 0 < sum(sizes_of(most)) <= most
    assert not sizes_of(1)


def test_profiling_times_every_op_of_recorded_steps() -> None:
    device = fake_device(profile=True)
    engine = tiny_engine(device=device)
    engine.reset_totals()
    assert tokens_of(engine) == tokens_of(tiny_engine())
    assert recordings(device)
    totals = device.totals
    assert all(total.seconds > 0 for total in totals.values())
    assert totals["linear"].calls == 4 * totals["rotary"].calls + engine.totals.steps


def test_scores_are_those_of_each_step() -> None:
    ids = repetitive(1)[0][:50]
    recorded = tiny_engine(device=fake_device()).score(ids, 4)
    assert torch.equal(recorded, tiny_engine().score(ids, 4))


# --- on the native kernels themselves ---


@needs_native
@pytest.mark.parametrize("family", FAMILIES)
def test_native_kernels_give_the_reference_tokens(family: str) -> None:
    device = CpuDevice(kernels="native-fp32", threads=1)
    engine = tiny_engine(family, device=device, engine={**LIMITS, "cache_format": "f32"})
    assert tokens_of(engine) == tokens_of(tiny_engine(family))
    assert recordings(device)


ROUNDING = {"on-die-ecc", "smoothquant"}
"""What rounds activations to integers: a sum that differs in its last bit can turn a code, and a random model
is full of near ties."""


@needs_native
@pytest.mark.parametrize("name", ON_ONE)
def test_native_kernels_give_every_techniques_tokens(name: str) -> None:
    device = CpuDevice(kernels="native-fp32", threads=1)
    own = make_technique(name, USES[name]).cache_scheme() is not None
    cache = {} if own else {"cache_format": "f32"}
    engine = tiny_engine(device=device, techniques=uses(name), engine={**LIMITS, **cache})
    plain = tiny_engine(techniques=uses(name))
    mine, theirs = tokens_of(engine), tokens_of(plain)
    if name in ROUNDING:
        same = [x == y for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True)]
        assert sum(same) > 0.8 * len(same)
    else:
        assert mine == theirs
    engine.check_techniques()
    assert recordings(device)
    assert [counted(a) for a in engine.actives] == [counted(a) for a in plain.actives]


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fmt", ["f32", "f16", "int8", "int4"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_replay_equals_execution_bit_for_bit(family: str, fmt: str, threads: int) -> None:
    device = CpuDevice(kernels="native", threads=threads)
    engine = tiny_engine(family, device=device, engine={**LIMITS, "cache_format": fmt})
    model = engine.runner.model
    for keys in (3, 4, 5, 9, 16):
        with torch.inference_mode():
            expected = model.forward(decode(engine, keys), device).clone()
        assert torch.equal(device.forward(model, decode(engine, keys)), expected)
    assert [r.runs for r in recordings(device)] == [4]


@needs_native
def test_native_kernels_run_no_torch_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a native kernel left to torch would be missing from every replay."""
    device = CpuDevice(kernels="native-fp32", threads=1)
    engine = tiny_engine(device=device, engine={**LIMITS, "cache_format": "f32"})
    seen: set[str] = set()

    def watched(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with Seen(seen):
                return kernel(*args)

        return run

    watching = {op: watched(kernel) for op, kernel in device.native_kernels.items()}
    monkeypatch.setattr(device, "native_kernels", watching)
    for _ in range(2):
        device.forward(engine.runner.model, decode(engine))
    assert recordings(device)
    assert seen <= VIEWS, seen - VIEWS


VIEWS = {
    f"aten.{name}"
    for name in (
        "alias.default",
        "as_strided.default",
        "detach.default",
        "empty.memory_format",
        "select.int",
        "slice.Tensor",
        "split.Tensor",
        "unbind.int",
        "view.default",
    )
}


class Seen(TorchDispatchMode):
    """Notes the torch ops that run."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))
