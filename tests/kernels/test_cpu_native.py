"""The frame of the native kernels: teams, streams, programs, the arena, the choice of an instruction set."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from twofold.kernels.cpu import extension, native, why_missing

if native() is None:
    pytest.skip(why_missing(), allow_module_level=True)


@pytest.fixture
def ext() -> Iterator[Any]:
    module = extension()
    before = module.isa()
    yield module
    module.use_isa(before)


def copy(ext: Any, stream: Any, destination: torch.Tensor, source: torch.Tensor) -> None:
    ext.copy(stream, destination.data_ptr(), source.data_ptr(), source.nbytes)


# Instruction sets


def test_the_best_instruction_set_is_used_and_the_scalar_one_is_always_there(ext: Any) -> None:
    names = ext.supported_isas()
    assert names[-1] == "scalar"
    assert ext.isa() == names[0]


def test_another_instruction_set_can_be_chosen(ext: Any) -> None:
    for name in ext.supported_isas():
        ext.use_isa(name)
        assert ext.isa() == name
    with pytest.raises(ValueError, match="sse9"):
        ext.use_isa("sse9")
    assert ext.isa() == ext.supported_isas()[-1]


# Teams and streams


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_members_stay_in_lockstep(ext: Any, threads: int) -> None:
    stream = ext.Stream(threads)
    assert stream.threads == threads
    for _ in range(5):
        ext.self_test(stream, 200)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_any_member_throws_reaches_the_caller_and_the_stream_goes_on(ext: Any, threads: int) -> None:
    stream = ext.Stream(threads)
    for member in range(threads):
        with pytest.raises(RuntimeError, match=f"member {member} failed"):
            ext.self_test(stream, 20, member)
        ext.self_test(stream, 20)


def test_a_parked_team_wakes(ext: Any) -> None:
    stream = ext.Stream(3)
    for pause in (0.0, 0.0005, 0.002, 0.01):  # below, about and beyond what a team waits before it parks
        for _ in range(5):
            ext.self_test(stream, 3)
            threading.Event().wait(pause)


def test_streams_come_and_go(ext: Any) -> None:
    for turn in range(50):
        stream = ext.Stream(3)
        if turn % 2:
            ext.self_test(stream, 2)


@pytest.mark.parametrize("nbytes", [0, 4, 60, 64, 4096, 10_004])
def test_copy(ext: Any, nbytes: int) -> None:
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8)
    padded = torch.zeros(nbytes + 64, dtype=torch.uint8)
    copy(ext, ext.Stream(3), padded, source)
    assert torch.equal(padded[:nbytes], source)
    assert not padded[nbytes:].any()


def test_callers_on_several_threads_take_turns(ext: Any) -> None:
    stream = ext.Stream(2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ext.self_test(stream, 30), range(100)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own(ext: Any) -> None:
    stream = ext.Stream(3)
    ext.self_test(stream, 3)
    child = os.fork()
    if child == 0:
        try:
            ext.self_test(stream, 50)
            del stream
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    ext.self_test(stream, 50)


# Programs


def test_a_program_runs_what_was_recorded_in_order(ext: Any) -> None:
    stream, a, b, c = ext.Stream(2), torch.randn(1000), torch.zeros(1000), torch.zeros(1000)
    program = ext.Program(stream)
    program.record()
    copy(ext, stream, b, a)
    ext.self_test(stream, 2)
    copy(ext, stream, c, b)
    program.end()
    copy(ext, stream, a, a.flip(0))  # runs, but is not recorded
    assert program.names() == ["copy", "self_test", "copy"]
    assert len(program) == 3

    a.fill_(7)
    program.run(0, 2)
    assert b.eq(7).all()
    assert not c.eq(7).any()
    program.run(2, 3)
    assert c.eq(7).all()
    a.fill_(8)
    program.run()
    assert c.eq(8).all()


def test_recording_can_be_taken_up_again(ext: Any) -> None:
    stream = ext.Stream(1)
    program = ext.Program(stream)
    for _ in range(2):
        program.record()
        ext.self_test(stream, 1)
        program.end()
        ext.self_test(stream, 1)
    assert len(program) == 2


def test_one_program_at_a_time_is_recorded(ext: Any) -> None:
    stream = ext.Stream(1)
    first, second = ext.Program(stream), ext.Program(stream)
    first.record()
    with pytest.raises(RuntimeError, match="another program"):
        second.record()
    second.end()  # not the one being recorded
    ext.self_test(stream, 1)
    first.end()
    second.record()
    ext.self_test(stream, 1)
    assert (len(first), len(second)) == (1, 1)


def test_a_program_that_is_dropped_while_recording_frees_the_stream(ext: Any) -> None:
    stream = ext.Stream(1)
    program = ext.Program(stream)
    program.record()
    del program
    gc.collect()
    ext.Program(stream).record()


def test_an_op_that_fails_is_not_kept(ext: Any) -> None:
    stream = ext.Stream(2)
    program = ext.Program(stream)
    program.record()
    with pytest.raises(RuntimeError):
        ext.self_test(stream, 4, 1)
    program.end()
    assert len(program) == 0


@pytest.mark.parametrize(("first", "last"), [(0, 2), (1, 0), (5, 9)])
def test_a_range_that_was_not_recorded_is_refused(ext: Any, first: int, last: int) -> None:
    stream = ext.Stream(1)
    program = ext.Program(stream)
    program.record()
    ext.self_test(stream, 1)
    with pytest.raises(IndexError):
        program.run(first, last)


def test_other_python_threads_go_on_while_a_program_runs(ext: Any) -> None:
    stream, a, b = ext.Stream(1), torch.zeros(8_000_000), torch.zeros(8_000_000)
    program = ext.Program(stream)
    program.record()
    for _ in range(50):
        copy(ext, stream, b, a)
    program.end()
    done, turns, during = threading.Event(), 0, 0

    def replay() -> None:
        nonlocal during
        for _ in range(200):  # the other thread may get no processor for the time of one replay
            before = turns
            program.run()
            during = turns - before
            if during > 3:
                break
        done.set()

    worker = threading.Thread(target=replay)
    worker.start()
    while not done.is_set():
        turns += 1
        done.wait(0.001)
    worker.join()
    assert during > 3  # with the interpreter's lock held, the loop would not turn between both looks at it


# The arena


def test_buffers_are_aligned_and_distinct(ext: Any) -> None:
    arena = ext.Arena()
    buffers = [arena.take(4 * size) for size in (1, 5, 100, 1000)]
    for value, (buffer, size) in enumerate(zip(buffers, (1, 5, 100, 1000), strict=True)):
        assert buffer.dtype == torch.float32
        assert buffer.shape == (size,)
        assert buffer.data_ptr() % 64 == 0
        buffer.fill_(value)
    for value, buffer in enumerate(buffers):
        assert buffer.eq(value).all()
    assert arena.nbytes == 64 + 64 + 448 + 4032
    assert arena.take(0).numel() == 0
    with pytest.raises(ValueError, match="whole floats"):
        arena.take(6)


def test_a_block_is_reused_once_its_last_view_is_gone(ext: Any) -> None:
    arena = ext.Arena()
    buffer = arena.take(4096)
    address, view = buffer.data_ptr(), buffer.view(32, 32)[3:5]
    del buffer
    assert arena.take(4096).data_ptr() != address  # the view still reads it
    held = arena.nbytes
    del view
    again = {arena.take(4096).data_ptr() for _ in range(5)} | {arena.take(4000).data_ptr()}
    assert len(again) == 1
    assert arena.nbytes == held == 2 * 4096


def test_a_large_block_is_not_spent_on_a_small_need(ext: Any) -> None:
    arena = ext.Arena()
    address = arena.take(1 << 20).data_ptr()
    small = arena.take(64)
    assert small.data_ptr() != address
    assert arena.take(1 << 20).data_ptr() == address


def test_buffers_outlive_the_arena_and_their_blocks_outlive_nothing(ext: Any) -> None:
    arena = ext.Arena()
    first, second = arena.take(4096).fill_(1), arena.take(4096).fill_(2)
    del arena
    gc.collect()
    assert first.eq(1).all()
    del first
    assert second.eq(2).all()


def test_threads_share_an_arena(ext: Any) -> None:
    arena = ext.Arena()

    def work(value: int) -> bool:
        good = True
        for _ in range(100):
            buffer = arena.take(4096).fill_(value)
            good = good and bool(buffer.eq(value).all())
        return good

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))
    assert arena.nbytes <= 16 * 4096
