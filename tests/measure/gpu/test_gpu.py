"""The GPU's microbenchmarks as far as no GPU is needed: what is launched (on the CPU), tables, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from twofold.devices.catalog import device_names, get_device
from twofold.devices.microbench import Microbenchmarks, Reading
from twofold.devices.registry import make_device
from twofold.measure.gpu import dissect as dissect_module
from twofold.measure.gpu import document as document_module
from twofold.measure.gpu import rates
from twofold.measure.gpu.calibrate import calibrate_gpu, collect, write
from twofold.measure.gpu.dissect import build, dissect, find_nvcc
from twofold.measure.gpu.document import Card, catalogued, gpu_document, read_power, shares
from twofold.measure.gpu.links import peers

H200 = Card("NVIDIA H200", (9, 0), 132, 150_000_000_000, (75.0, 700.0), "torch 2, CUDA 13")
CPU = torch.device("cpu")


class OneSecond:
    """Runs the work once and says that it took a second."""

    def __init__(self) -> None:
        self.runs = 0

    def seconds(self, run: Callable[[], object]) -> float:
        run()
        self.runs += 1
        return 1.0


class FakeLibrary:
    """Answers as the compiled library does. failing: name of a function that fails."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.called = failing, [""]

    def __getattr__(self, name: str) -> Callable[..., float]:
        def function(*arguments: float) -> float:
            assert len(arguments) == len(dissect_module._ARGUMENTS[name])
            self.called.append(name)
            return -1.0 if name == self.failing else 2.0

        return function


def readings() -> list[Reading]:
    return [
        Reading("triad", "1 MiB", 5e12, "B/s"),
        Reading("triad", "4 GiB", 4.2e12, "B/s"),
        Reading("bf16 product", "8192 × 8192 × 8192", 7e14, "FLOP/s"),
        Reading("bf16 product", "16 × 8192 × 8192", 5e13, "FLOP/s"),
        Reading("host to device", "256 MiB", 5.5e10, "B/s"),
        Reading("device to host", "256 MiB", 5.2e10, "B/s"),
    ]


def found() -> Microbenchmarks:
    return Microbenchmarks(
        source="measured", readings=readings(), missing={"peer copies": "there is one GPU"}
    )


def test_bytes_are_counted_by_streams_rules() -> None:
    timer = OneSecond()
    table = list(rates.bandwidth(timer, CPU, (2400,)))
    assert table == [
        Reading("copy", "2.344 KiB", 2400.0, "B/s"),
        Reading("triad", "2.344 KiB", 2400.0, "B/s"),
    ]


def test_products_count_flop_and_say_what_is_missing() -> None:
    missing: dict[str, str] = {}
    table = list(rates.products(OneSecond(), CPU, missing, ((16, 32, 64), (32, 32, 64))))
    values = {(r.bench, r.case): r.value for r in table}
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        assert values[f"{precision} product", "16 × 32 × 64"] == 2 * 16 * 32 * 64
    assert ("int8 product", "16 × 32 × 64") not in values
    assert missing["int8 product"] == "torch multiplies int8 from 17 rows up"
    assert not torch.backends.cuda.matmul.allow_tf32


def test_one_gpu_has_no_peers() -> None:
    if torch.cuda.device_count() > 1:
        pytest.skip("there are several GPUs")
    missing: dict[str, str] = {}
    assert not list(peers(OneSecond(), missing))
    assert "there is one GPU" in missing.values()


def test_hopper_is_dissected_and_older_cards_as_far_as_they_go() -> None:
    missing: dict[str, str] = {}
    table = list(dissect((9, 0), 132, missing, FakeLibrary()))
    assert not missing
    cases = [f"{r.bench}: {r.case}" for r in table]
    assert "latency: neighbour's shared memory" in cases
    assert {"distributed shared memory", "bulk copy (TMA)", "DPX"} <= {r.bench for r in table}
    older = list(dissect((8, 0), 108, missing, FakeLibrary()))
    assert {r.bench for r in older} == {"latency"}
    assert missing == {"clusters, bulk copies, DPX": "this GPU is older than Hopper"}


def test_a_kernel_that_fails_is_missing() -> None:
    missing: dict[str, str] = {}
    table = list(dissect((9, 0), 132, missing, FakeLibrary("dpx_rate")))
    assert "DPX" not in {r.bench for r in table}
    assert missing["DPX, max(a + b, c, 0), 32 bits"] == "the kernel failed on this GPU"


def test_without_a_compiler_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dissect_module, "find_nvcc", lambda: None)
    missing: dict[str, str] = {}
    assert not list(dissect((9, 0), 132, missing))
    assert "nvcc" in missing["latencies and Hopper's units"]
    refuses = tmp_path / "nvcc"
    refuses.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setattr(dissect_module, "find_nvcc", lambda: str(refuses))
    with pytest.raises(ValueError, match="nvcc refused: no such thing"):
        build((9, 0), tmp_path)


@pytest.mark.long
def test_the_cuda_source_compiles(tmp_path: Path) -> None:
    if find_nvcc() is None:
        pytest.skip("no CUDA compiler here")
    for capability in ((8, 0), (9, 0)):
        library = build(capability, tmp_path)
        assert library.dpx_rate.restype is not None


def test_the_file_is_the_cards_with_measured_figures(tmp_path: Path) -> None:
    path = tmp_path / "devices" / "this-gpu.yaml"
    calibration = write(H200, found(), path)
    device = get_device(str(path))
    assert device == calibration.device
    base = get_device("h200-sxm")
    assert (device.name, device.units.count.value) == ("this-gpu", 132)
    assert device.matmul == base.matmul
    assert device.efficiency == base.efficiency
    assert device.host is not None
    assert device.host.bandwidth.value == 5.2e10
    assert device.power.idle.value == 75.0
    assert device.microbenchmarks == found()
    assert make_device(str(path)).memory["device"] == 150_000_000_000
    assert dict(calibration.shares) == {
        "memory bandwidth, triad": pytest.approx(4.2e12 / 4.8e12),
        "bf16 product, 8192 × 8192 × 8192": pytest.approx(7e14 / 989.4e12),
    }


def test_figures_that_were_not_read_stay_the_datasheets() -> None:
    document = gpu_document(H200._replace(power=None), Microbenchmarks(source="measured", readings=[]))
    assert document["power"]["limit"]["source"] == "datasheet"
    assert document["host"]["bandwidth"]["source"] == "datasheet"
    assert yaml.safe_load(yaml.safe_dump(document)) == document
    assert shares(H200, Microbenchmarks(source="measured", readings=[])) == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g-sxm"),
        ("NVIDIA A100 80GB PCIe", "a100-80g-pcie"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA GB200", "gb200"),
        ("Tesla T4", "t4"),
    ],
)
def test_cards_are_found_by_their_drivers_name(name: str, file: str) -> None:
    assert catalogued(name) == file
    assert get_device(file).name == file


def test_every_card_has_a_file() -> None:
    files = [file for _, file in document_module._CARDS]
    assert set(files) <= set(device_names())
    assert len(files) == len(set(files))


def test_an_unknown_card_is_said() -> None:
    with pytest.raises(ValueError, match="no 'Radeon'"):
        catalogued("Radeon")


def test_power_is_read_from_nvidia_smi(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '74.25, 700.00'\n")
    tool.chmod(0o755)
    assert read_power(str(tool)) == (74.25, 700.0)
    tool.write_text("#!/bin/sh\necho '[N/A], 700.00'\n")
    assert read_power(str(tool)) is None
    assert read_power(str(tmp_path / "absent")) is None


def test_parts_run_in_order() -> None:
    seen: list[tuple[str, int, int]] = []
    parts = [("a", readings()[:1]), ("b", readings()[1:2])]
    table = collect(parts, {"c": "why"}, lambda *step: seen.append(step))  # type: ignore[arg-type]
    assert table.readings == readings()[:2]
    assert table.missing == {"c": "why"}
    assert seen == [("a", 0, 2), ("b", 1, 2), ("done", 2, 2)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ValueError, match="no GPU here"):
        calibrate_gpu()
