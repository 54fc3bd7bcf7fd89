"""The device catalogue: every figure read, sourced and in plausible bounds; user files; what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from twofold.devices.catalog import (
    _folder,
    device_names,
    energy_table,
    generation_names,
    get_device,
    parse_device,
    this_cpu_path,
)
from twofold.devices.efficiency.machine import Machine
from twofold.devices.figures import parse_quantity
from twofold.devices.schema import figures

WANTED = {
    "a100-40g-sxm", "a100-80g-sxm", "h100-sxm", "h200-sxm", "b200", "v100-32g-sxm2", "t4", "a6000", "l40s",
    "rtx-3090", "rtx-4090", "mi300x", "tpu-v4", "tpu-v5e", "xeon-8480", "epyc-9654", "ryzen-7840u-laptop",
    "snapdragon-8-gen-3",
}  # fmt: skip


def text_of(name: str) -> str:
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def test_all_wanted_devices_are_there() -> None:
    assert set(device_names()) >= WANTED


@pytest.mark.parametrize("name", device_names())
def test_every_figure_has_a_source(name: str) -> None:
    device = get_device(name)
    found = dict(figures(device))
    assert device.name == name
    assert len(found) >= 15
    for path, figure in found.items():
        assert len(device.sources[figure.source]) > 10, path


@pytest.mark.parametrize("name", device_names())
def test_every_source_of_its_own_is_used(name: str) -> None:
    device = get_device(name)
    used = {figure.source for _, figure in figures(device)}
    own = yaml.safe_load(text_of(name))["sources"]
    assert set(own) <= used


@pytest.mark.parametrize("name", device_names())
def test_figures_are_plausible(name: str) -> None:
    device = get_device(name)
    assert 1e10 < device.memory.bandwidth.value < 1e13
    assert 4e9 < device.memory.capacity.value < 2e12
    assert 1e11 < max(rate.value for rate in device.matmul.values()) < 1e17
    assert 0 < device.power.idle.value < device.power.limit.value <= 1500
    eff = device.efficiency
    products, elementwise = eff.products, eff.elementwise
    shares = (products.matrix, products.memory, products.cache, elementwise.vector, elementwise.memory)
    assert all(0 < share.value <= 1 for share in (*shares, elementwise.cache, eff.collective.share))
    attention = eff.attention
    assert all(
        0 < x.value <= 1 for x in (attention.matrix, attention.vector, attention.memory, attention.cache)
    )
    assert device.memory.technology in energy_table().memory
    assert device.link is None or device.link.technology in energy_table().link


def test_shared_figures_have_sources() -> None:
    table = energy_table()
    for _, figure in figures(table):
        assert figure.source in table.sources


def test_published_peaks() -> None:
    """A few figures that anybody can look up, in SI units."""
    h100 = get_device("h100-sxm")
    assert h100.matmul["bf16"].value == pytest.approx(989.4e12)
    assert h100.memory.capacity.value == 81559 * 2**20
    assert get_device("tpu-v4").memory.capacity.value == 32 * 2**30
    assert get_device("A100-80G-SXM").memory.bandwidth.value == 2039e9


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("3.35 TB/s", "B/s", 3.35e12),
        ("80 GB", "B", 80e9),
        ("32 GiB", "B", 32 * 2**30),
        ("1.5 GiB/s", "B/s", 1.5 * 2**30),
        ("4.5 us", "s", 4.5e-6),
        ("31.4 pJ/B", "J/B", 31.4e-12),
        ("989.4 TFLOP/s", "FLOP/s", 989.4e12),
        ("700 W", "W", 700.0),
        (0.8, "", 0.8),
        ("1e9", "B/s", 1e9),
    ],
)
def test_quantities(text: str | float, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "unit"),
    [("80 GB/s", "B"), ("5 parsecs", "s"), ("-3 W", "W"), ("inf", "W"), ("", "W"), (True, ""), (None, "")],
)
def test_bad_quantities(text: object, unit: str) -> None:
    with pytest.raises(ValueError, match=r"not|quantity"):
        parse_quantity(text, unit)  # type: ignore[arg-type]


def test_unknown_device_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'h100-sxm'"):
        get_device("h100-smx")


def test_this_cpu_asks_for_a_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path))
    assert this_cpu_path().is_relative_to(tmp_path)
    with pytest.raises(ValueError, match="twofold calibrate"):
        get_device("this-cpu")


def test_user_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text_of("h100-sxm").replace("name: h100-sxm", "name: mine"), encoding="utf-8")
    assert get_device(str(path)).name == "mine"
    with pytest.raises(ValueError, match="cannot read device file"):
        get_device(str(tmp_path / "other.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("vector:", "vectors:", "did you mean 'vector'"),
        ("source: guide", "source: gide", "did you mean 'guide'"),
        ("3352 GB/s", "3352 GB", "memory.bandwidth"),
        ("64.4 W", "900 W", "below the idle power"),
        ("efficiency: hopper", "efficiency: hoper", "did you mean 'hopper'"),
        ("  fp16: {value", "  fp17: {value", "fp17"),
        ("name: h100-sxm", "- nothing", "not valid YAML"),
    ],
)
def test_broken_files_are_refused(old: str, new: str, message: str) -> None:
    text = text_of("h100-sxm")
    assert old in text
    with pytest.raises(ValueError, match=message):
        parse_device(text.replace(old, new), "mine.yaml")


def test_every_generation_is_used() -> None:
    used = {yaml.safe_load(text_of(name))["efficiency"] for name in device_names()}
    assert used == set(generation_names())


def test_codes_that_travel_with_the_data_take_memory_and_bandwidth() -> None:
    """Cards with GDDR6 and ECC switched on keep 15/16 of their chips' capacity and less of the bandwidth."""
    inline = {name for name in device_names() if get_device(name).memory.ecc is not None}
    assert inline == {"a10", "a40", "l4", "l40s", "t4"}
    for name in inline:
        memory = get_device(name).memory
        assert memory.ecc is not None
        chips = 2**30 * {"a40": 48, "l40s": 48, "t4": 16}.get(name, 24)
        assert memory.capacity.value == pytest.approx(chips * 15 / 16, rel=0.002)
        assert Machine.of(get_device(name)).memory_bandwidth == memory.bandwidth.value * memory.ecc.value
    beside = get_device("rtx-4090")
    assert Machine.of(beside).memory_bandwidth == beside.memory.bandwidth.value
