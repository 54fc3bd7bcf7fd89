"""STREAM: bytes counted by its rules, ways in turn, results checked; working sets by level."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.devices.microbench import Microbenchmarks, Reading
from twofold.kernels.cpu import native
from twofold.measure import stream as module
from twofold.measure.caches import CacheLevel, cache_levels, last_cache_bytes
from twofold.measure.latency import latencies, level_sizes
from twofold.measure.stream import StreamResult, WrongResultError, abstraction_ratio, stream
from twofold.measure.suite import size_text

needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built")


def test_bytes_are_counted_as_stream_counts_them() -> None:
    times = (2e-3, 1e-3, 3e-3)
    moved = {k: StreamResult(k, "plain", 1, 10_000, times).bytes_moved for k in module.ARRAYS_MOVED}
    assert moved == {"copy": 20_000, "scale": 20_000, "add": 30_000, "triad": 30_000}
    result = StreamResult("triad", "plain", 1, 10_000, times)
    assert result.best_rate == 30_000 / 1e-3
    assert result.record()["seconds"] == {"mean": pytest.approx(2e-3), "min": 1e-3, "max": 3e-3}


@needs_native
def test_every_kernel_runs_in_every_way() -> None:
    results = stream(4096, threads=2, repeats=3)
    streamed = native().isa() != "scalar"  # type: ignore[union-attr]
    assert len(results) == 4 * (3 if streamed else 2)
    assert all(len(r.seconds) == 3 and min(r.seconds) > 0 and r.array_bytes == 4096 for r in results)
    assert abstraction_ratio(results) > 0


def test_the_ratio_is_a_geometric_mean() -> None:
    def result(kernel: str, way: str, seconds: float) -> StreamResult:
        return StreamResult(kernel, way, 1, 100, (seconds,))

    results = [
        result("copy", "plain", 1.0),
        result("copy", "abstract", 0.5),
        result("add", "plain", 1.0),
        result("add", "abstract", 2.0),
        result("add", "streamed", 9.0),
    ]
    assert abstraction_ratio(results) == pytest.approx(1.0)


@needs_native
def test_wrong_results_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(WrongResultError, match="off by"):
        stream(1024, threads=1, repeats=1)


@needs_native
def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one element"):
        stream(3)
    with pytest.raises(ValueError, match="one run"):
        stream(1024, repeats=0)


def _caches(root: Path) -> None:
    for index, (kind, level, size) in enumerate(
        [
            ("Data", "1", "48K"),
            ("Instruction", "1", "32K"),
            ("Unified", "2", "2048K"),
            ("Unified", "3", "30M"),
        ]
    ):
        folder = root / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(text + "\n")


def test_caches_are_read_from_the_system(tmp_path: Path) -> None:
    _caches(tmp_path)
    levels = [CacheLevel(1, 48 << 10), CacheLevel(2, 2 << 20), CacheLevel(3, 30 << 20)]
    assert cache_levels(tmp_path) == levels
    assert last_cache_bytes(tmp_path) == 30 << 20
    assert cache_levels(tmp_path / "absent") == []


def test_working_sets_lie_inside_their_levels(tmp_path: Path) -> None:
    _caches(tmp_path)
    caches = cache_levels(tmp_path)
    sizes = dict(level_sizes(caches, 1 << 30))
    assert list(sizes) == ["L1", "L2", "L3", "memory"]
    assert sizes["L1"] <= 48 << 10 < sizes["L2"] <= 2 << 20 < sizes["L3"] <= 30 << 20
    assert sizes["memory"] == 120 << 20
    assert list(dict(level_sizes(caches, 8 << 20))) == ["L1", "L2", "beyond L2"]
    assert list(dict(level_sizes(caches, 64 << 20))) == ["L1", "L2", "L3", "beyond L3"]
    assert level_sizes([], 1 << 20) == [("memory", 1 << 20)]


@needs_native
def test_latencies_are_positive_and_in_order() -> None:
    found = latencies([4096, 65536], 1000, 1)
    assert [latency.nbytes for latency in found] == [4096, 65536]
    assert all(latency.seconds > 0 for latency in found)


def test_sizes_read_well() -> None:
    assert [size_text(n) for n in (96, 1536, 3 << 20, 1 << 30)] == ["96 B", "1.5 KiB", "3 MiB", "1 GiB"]


def test_the_best_reading_is_the_highest() -> None:
    found = Microbenchmarks(
        source="measured", readings=[Reading("copy", "a", 1.0, "B/s"), Reading("copy", "b", 3.0, "B/s")]
    )
    assert found.best("copy") == Reading("copy", "b", 3.0, "B/s")
    assert found.best("triad") is None
    assert Microbenchmarks(**found.model_dump(mode="json")) == found
