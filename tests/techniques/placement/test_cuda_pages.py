"""Pages of a GPU, by the calls of the CUDA driver, on a stand-in of it: what is mapped is shared and never
copied, what is not cannot be touched, memory comes back, and every error is named."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import torch
from tests.engine.test_engine import prompts
from tests.techniques.placement.stand_in import StandIn
from tests.techniques.placement.test_paging import engine_with, pager_of, tokens
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.devices.torch_device import TorchDevice
from twofold.engine.request import SamplingParams
from twofold.fleet.build import build_fleet
from twofold.techniques.placement import cuda_driver, virtual_caches
from twofold.techniques.placement.cuda_driver import CudaError, Driver
from twofold.techniques.placement.cuda_pages import CudaPages

PAGE = 2 << 20
CPU = torch.device("cpu")
SMALL = 4096


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """The stand-in, which must be left as it was found."""
    found = StandIn()
    before = found.left
    yield found
    found.limit((1 << 64) - 1)
    gc.collect()
    assert found.left == before, "memory, addresses or mappings were left behind"


def dies(touch: object) -> bool:
    """Whether `touch()` ends a child of this process by a fault."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        touch()  # type: ignore[operator]
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGBUS)


def refused(name: str, call: object, *arguments: int) -> None:
    with pytest.raises(CudaError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.name == name


# --- the calls ---


def test_structures_are_laid_out_as_in_cuda_h() -> None:
    # By the C compiler on cuda.h of CUDA 12.4 and 13.0, on x86-64.
    properties = cuda_driver._Properties
    assert ctypes.sizeof(properties) == 32
    assert [getattr(properties, n).offset for n, *_ in properties._fields_] == [0, 4, 8, 16, 24]
    assert ctypes.sizeof(cuda_driver._Access) == 12
    assert cuda_driver._Access.flags.offset == 8


def test_mapped_memory_is_unreadable_before_it_is_opened(stand_in: StandIn) -> None:
    driver = stand_in.driver
    assert driver.granularity() == PAGE
    at, handle = driver.reserve(2 * PAGE), driver.create(PAGE)
    assert dies(lambda: ctypes.string_at(at, 1)), "addresses without memory"
    driver.map(at, PAGE, handle)
    assert dies(lambda: ctypes.string_at(at, 1)), "memory without access"
    driver.open(at, PAGE)
    ctypes.memset(at, 7, PAGE)
    assert not dies(lambda: ctypes.string_at(at, 1))
    assert dies(lambda: ctypes.string_at(at + PAGE, 1)), "the page behind it"
    driver.unmap(at, PAGE)
    assert dies(lambda: ctypes.string_at(at, 1)), "what was unmapped"
    driver.map(at + PAGE, PAGE, handle)
    assert dies(lambda: ctypes.string_at(at + PAGE, 1)), "a new mapping needs access of its own"
    driver.open(at + PAGE, PAGE)
    assert ctypes.string_at(at + PAGE, 3) == b"\7\7\7", "content belongs to the memory"
    driver.unmap(at + PAGE, PAGE)
    driver.release(handle)
    driver.free(at, 2 * PAGE)


def test_memory_goes_once_it_is_released_and_mapped_nowhere(stand_in: StandIn) -> None:
    driver = stand_in.driver
    before = stand_in.taken
    at, handle = driver.reserve(PAGE), driver.create(PAGE)
    driver.map(at, PAGE, handle)
    driver.release(handle)
    assert stand_in.taken - before == PAGE
    driver.unmap(at, PAGE)
    assert stand_in.taken == before
    driver.free(at, PAGE)


def test_misuse_is_named(stand_in: StandIn) -> None:
    driver = stand_in.driver
    at, handle = driver.reserve(4 * PAGE), driver.create(2 * PAGE)
    wrong = "CUDA_ERROR_INVALID_VALUE"
    refused(wrong, driver.create, PAGE + 4096)
    refused(wrong, driver.map, at, PAGE // 2, handle)
    refused(wrong, driver.map, at + 4096, PAGE, handle)
    refused(wrong, driver.map, at, 4 * PAGE, handle)  # more than there is
    refused(wrong, driver.map, at + 3 * PAGE, 2 * PAGE, handle)  # beyond what is reserved
    refused(wrong, driver.open, at, PAGE)  # nothing is mapped
    driver.map(at, 2 * PAGE, handle)
    refused(wrong, driver.map, at + PAGE, PAGE, handle)  # something is mapped
    refused(wrong, driver.unmap, at, PAGE)  # a part of a mapping
    refused(wrong, driver.open, at, 3 * PAGE)
    refused(wrong, driver.free, at, 4 * PAGE)  # in use
    driver.unmap(at, 2 * PAGE)
    refused(wrong, driver.unmap, at, 2 * PAGE)
    refused(wrong, driver.free, at, PAGE)
    driver.release(handle)
    refused(wrong, driver.release, handle)
    driver.free(at, 4 * PAGE)
    refused("CUDA_ERROR_INVALID_DEVICE", Driver(7, stand_in.driver._library._name).create, PAGE)
    stand_in.limit(stand_in.taken)
    refused("CUDA_ERROR_OUT_OF_MEMORY", driver.create, PAGE)


def test_without_a_driver_the_error_says_so() -> None:
    with pytest.raises(ValueError, match=r"needs the CUDA driver: libno-such\.so"):
        Driver(0, "libno-such.so")


# --- pages ---


def pages_of(stand_in: StandIn, count: int) -> CudaPages:
    return CudaPages(count * PAGE, PAGE, stand_in.driver, CPU)


def test_pages_appear_where_they_are_mapped_and_take_memory_then(stand_in: StandIn) -> None:
    before = stand_in.taken
    pages = pages_of(stand_in, 8)
    area = pages.area(8 * PAGE)
    assert pages.resident_bytes == stand_in.taken - before == 0
    pages.map(area.data_ptr() + 2 * PAGE, 5 * PAGE, 2 * PAGE)
    assert pages.resident_bytes == stand_in.taken - before == 2 * PAGE
    area[2 * PAGE : 4 * PAGE] = 7
    assert int(pages.tensor(5 * PAGE, (2 * PAGE,), torch.uint8).sum()) == 7 * 2 * PAGE
    assert dies(lambda: int(area[PAGE]))
    assert dies(lambda: int(area[4 * PAGE]))


def test_growing_costs_calls_and_no_copy(stand_in: StandIn) -> None:
    pages = pages_of(stand_in, 4)
    area = pages.area(4 * PAGE)
    at = area.data_ptr()
    pages.map(at, 3 * PAGE, PAGE)
    area[:PAGE] = 1
    pages.map(at + PAGE, 0, PAGE)
    area[PAGE : 2 * PAGE] = 2
    assert area.data_ptr() == at
    assert int(area[: 2 * PAGE].view(torch.int32).bitwise_and(0xFF).sum()) == 3 * PAGE // 4


def test_a_prefix_is_one_page_at_two_addresses(stand_in: StandIn) -> None:
    before = stand_in.taken
    pages = pages_of(stand_in, 3)
    first, second = pages.area(2 * PAGE), pages.area(2 * PAGE)
    pages.map(first.data_ptr(), PAGE, PAGE)
    pages.map(second.data_ptr(), PAGE, PAGE)
    pages.map(first.data_ptr() + PAGE, 0, PAGE)
    pages.map(second.data_ptr() + PAGE, 2 * PAGE, PAGE)
    first[5], first[PAGE], second[PAGE] = 99, 1, 2
    assert (int(second[5]), int(first[PAGE]), int(second[PAGE])) == (99, 1, 2)
    assert stand_in.taken - before == 3 * PAGE


def test_what_was_there_is_replaced_and_keeps_its_content(stand_in: StandIn) -> None:
    pages = pages_of(stand_in, 2)
    area = pages.area(PAGE)
    for number, value in ((0, 3), (1, 4)):
        pages.map(area.data_ptr(), number * PAGE, PAGE)
        area[:] = value
    pages.unmap(area.data_ptr(), PAGE)
    pages.unmap(area.data_ptr(), PAGE)  # nothing is there any more
    pages.map(area.data_ptr(), 0, PAGE)
    assert int(area[0]) == 3
    assert [int(pages.tensor(n * PAGE, (1,), torch.uint8)) for n in (0, 1)] == [3, 4]


def test_what_is_given_back_is_gone_and_comes_anew(stand_in: StandIn) -> None:
    before = stand_in.taken
    pages = pages_of(stand_in, 2)
    area = pages.area(2 * PAGE)
    pages.map(area.data_ptr(), 0, 2 * PAGE)
    area[:] = 3
    pages.unmap(area.data_ptr(), 2 * PAGE)
    assert stand_in.taken - before == 2 * PAGE
    pages.give_back(0, PAGE)
    pages.give_back(0, PAGE)  # it has none
    assert pages.resident_bytes == stand_in.taken - before == PAGE
    pages.map(area.data_ptr(), 0, PAGE)
    assert int(area[:PAGE].sum()) == 0
    assert int(pages.tensor(PAGE, (PAGE,), torch.uint8).sum()) == 3 * PAGE


def test_no_memory_is_an_error_and_what_is_there_stays(stand_in: StandIn) -> None:
    pages = pages_of(stand_in, 3)
    area = pages.area(3 * PAGE)
    pages.map(area.data_ptr(), 0, PAGE)
    area[:PAGE] = 5
    stand_in.limit(stand_in.taken)
    with pytest.raises(CudaError, match="cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY"):
        pages.map(area.data_ptr() + PAGE, PAGE, PAGE)
    assert int(area[PAGE - 1]) == 5
    stand_in.limit(1 << 40)
    pages.map(area.data_ptr() + PAGE, PAGE, PAGE)
    area[PAGE : 2 * PAGE] = 6


def test_views_keep_the_addresses_and_the_last_one_gives_them_back(stand_in: StandIn) -> None:
    before = stand_in.left
    pages = pages_of(stand_in, 1)
    area = pages.area(PAGE)
    pages.map(area.data_ptr(), 0, PAGE)
    view = area.view(torch.float32)[7:9]
    del pages, area
    gc.collect()
    view[:] = 1.5
    assert view.tolist() == [1.5, 1.5]
    del view
    gc.collect()
    assert stand_in.left == before


# --- in the engine ---


@pytest.fixture
def mapped_by_cuda(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Engines on the CPU whose caches are mapped by the calls of the driver, 4096 bytes at a time."""
    found = StandIn(SMALL)

    def pages_on(where: torch.device, nbytes: int, page: int) -> CudaPages:
        return CudaPages(nbytes, page, found.driver, where)

    monkeypatch.setattr(virtual_caches, "pages_on", pages_on)
    return found


@pytest.mark.parametrize("name", ["vattention", "vtensor"])
def test_an_engine_answers_as_with_block_tables(name: str, mapped_by_cuda: StandIn) -> None:
    gc.collect()
    before = mapped_by_cuda.taken
    prompt = [(7 * i) % 140 + 5 for i in range(100)]
    asked = [[*prompt, 9], [*prompt, 11], *prompts(4, seed=9)]
    engine = engine_with(name)
    pager = pager_of(engine)
    assert tokens(engine, asked, 60) == tokens(tiny_engine(), asked, 60)
    pager._wait()
    counters = pager.counters
    assert counters["pages_shared"] > 0
    assert counters["pages_mapped_ahead"] > 0
    assert mapped_by_cuda.taken - before == counters["resident_bytes"]
    if name == "vtensor":
        engine.forget_cached()
        assert counters["pages_unmapped"] == counters["pages_mapped"]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_short_memory(preemption: str, mapped_by_cuda: StandIn) -> None:
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "preemption": preemption}
    asked = [p[:40] for p in prompts(6, seed=6, longest=60)]
    engine = engine_with("vtensor", engine={**limits, "cache_blocks": 7})
    assert tokens(engine, asked, 60) == tokens(tiny_engine(engine=limits), asked, 60)
    assert engine.scheduler.num_preempted > 0, "memory was never short: nothing was tested"


def test_pages_that_the_driver_does_not_map_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = StandIn()

    def pages_on(where: torch.device, nbytes: int, page: int) -> CudaPages:
        return CudaPages(nbytes, page, found.driver, where)

    monkeypatch.setattr(virtual_caches, "pages_on", pages_on)
    with pytest.raises(ValueError, match="not a multiple of the 2097152 bytes that this device maps by"):
        engine_with("vattention")


def test_on_a_gpu_pages_are_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Called(Driver):
        def __init__(self, device: int) -> None:
            asked.append(device)
            super().__init__(0, StandIn().driver._library._name)

    monkeypatch.setattr(virtual_caches, "Driver", Called)
    pages = virtual_caches.pages_on(torch.device("cuda", 3), PAGE, PAGE)
    assert isinstance(pages, CudaPages)
    assert asked == [3]


def test_any_thread_may_map(stand_in: StandIn) -> None:
    pages = pages_of(stand_in, 1)
    area = pages.area(PAGE)
    thread = threading.Thread(target=pages.map, args=(area.data_ptr(), 0, PAGE))
    thread.start()
    thread.join()
    area[:] = 1


def test_caches_that_come_from_elsewhere_find_memory(mapped_by_cuda: StandIn) -> None:
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256}
    checkpoint = tiny_checkpoint()
    uses = [
        {"name": "splitwise", "params": {"layerwise_tokens": 30}},
        {"name": "vtensor", "params": {"chunk_size": SMALL}},
    ]
    plan = tiny_plan(techniques=uses, engine=limits)
    fleet = build_fleet(plan, checkpoint.spec, checkpoint, make=lambda _: TorchDevice("cpu"))
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    asked = prompts(4, seed=5)
    expected = [c.token_ids for c in tiny_engine(engine=limits).generate(asked, params)]
    assert [c.token_ids for c in fleet.generate(asked, params)] == expected
    assert 0 < fleet.policy.counters["layerwise_transfers"] < fleet.policy.counters["transfers"] == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: only the stand-in is checked")
@pytest.mark.parametrize("name", ["vattention", "vtensor"])
def test_on_a_real_gpu_answers_are_those_of_block_tables(name: str) -> None:
    asked = prompts(6, seed=9)
    mapped = tiny_engine(device=TorchDevice("cuda"), techniques=[name])
    assert tokens(mapped, asked) == tokens(tiny_engine(device=TorchDevice("cuda")), asked)
    assert pager_of(mapped).counters["pages_mapped"] > 0
