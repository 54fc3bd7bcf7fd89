"""The native microbenchmarks compute what they say: STREAM's arrays against scalar arithmetic, chains as
cycles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from twofold.kernels.cpu import native

ext = native()
pytestmark = pytest.mark.skipif(ext is None, reason="the native kernels are not built")

KERNELS = ("copy", "scale", "add", "triad")


@pytest.fixture(params=[] if ext is None else ext.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor runs, in turn."""
    before = ext.isa()
    ext.use_isa(request.param)
    yield request.param
    ext.use_isa(before)


@pytest.mark.parametrize("count", [1, 15, 1000, 4099])
def test_all_ways_compute_the_four_kernels(isa: str, count: int) -> None:
    arrays = ext.StreamArrays(ext.Stream(3), count)
    ways = ("plain", "abstract") if isa == "scalar" else ("plain", "abstract", "streamed")
    for way in ways:
        for kernel in (*KERNELS, *reversed(KERNELS)):
            assert arrays.run(kernel, way, 2) > 0
            assert arrays.error() < 1e-6, (isa, way, kernel)


def test_many_rounds_leave_no_error(isa: str) -> None:
    arrays = ext.StreamArrays(ext.Stream(1), 100)
    for _ in range(300):
        for kernel in KERNELS:
            arrays.run(kernel, "abstract", 1)
            arrays.run(kernel, "plain", 1)
    assert arrays.error() == 0.0, "the same roundings as scalar arithmetic"


@pytest.mark.parametrize("wrong", [("swap", "plain", 1), ("copy", "fast", 1), ("copy", "plain", 0)])
def test_nonsense_is_refused(wrong: tuple[str, str, int]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least one"):
        ext.StreamArrays(ext.Stream(1), 8).run(*wrong)


def test_scalar_kernels_have_no_streaming_stores() -> None:
    before = ext.isa()
    ext.use_isa("scalar")
    try:
        with pytest.raises(ValueError, match="no streaming stores"):
            ext.StreamArrays(ext.Stream(1), 8).run("copy", "streamed", 1)
    finally:
        ext.use_isa(before)


@pytest.mark.parametrize(("nbytes", "stride"), [(128, 64), (4096, 64), (100_000, 64), (4096, 8)])
def test_a_chain_meets_every_line_once(nbytes: int, stride: int) -> None:
    chase = ext.PointerChase(nbytes, stride, 7)
    assert len(chase) == nbytes // stride
    assert chase.seconds(1000) > 0
    assert len(chase) == nbytes // stride, "wherever it stopped, the cycle is the same"


@pytest.mark.parametrize(("nbytes", "stride"), [(64, 64), (4096, 12), (4096, 0)])
def test_impossible_chains_are_refused(nbytes: int, stride: int) -> None:
    with pytest.raises(ValueError, match=r"two lines|multiple of a pointer"):
        ext.PointerChase(nbytes, stride, 1)
