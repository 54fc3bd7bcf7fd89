"""Devices compared under one load: the fewest that hold it, packed weights where nothing else helps, reasons
where nothing does."""

from __future__ import annotations

import pytest

from twofold.jobs.compare_devices import compare_devices
from twofold.plan import Plan
from twofold.report.device_comparison import DeviceComparison, Load, grid, pictures

PLAN = Plan.from_dict({"workload": {"prompt": 64, "output": 16}})
DEVICES = ("h100-sxm", "t4", "pim-gpt", "ryzen-7840u-laptop")


@pytest.fixture(scope="module")
def found() -> DeviceComparison:
    """Two models at one and eight requests at once."""
    return compare_devices(PLAN, DEVICES, ("gpt2-small", "llama-2-70b"), (1, 8))


def test_every_load_has_an_answer(found: DeviceComparison) -> None:
    """A small model runs everywhere on one device; batches raise speed where weights are shared."""
    assert found.loads == [
        Load("gpt2-small", 1),
        Load("gpt2-small", 8),
        Load("llama-2-70b", 1),
        Load("llama-2-70b", 8),
    ]
    one, eight = ({o.device: o for o in found.at(Load("gpt2-small", batch))} for batch in (1, 8))
    assert all(o.devices == 1 and o.weight_bits == 0 and not o.refused for o in one.values())
    for device in DEVICES:
        first, second = one[device].tokens_per_s, eight[device].tokens_per_s
        assert first is not None
        assert second is not None
        assert second.mid > 3 * first.mid if device != "pim-gpt" else second.mid < 1.2 * first.mid


def test_large_models_take_several_or_are_packed(found: DeviceComparison) -> None:
    """70 billion parameters: two H100, eight T4 with weights in 8 bits, no laptop and no PIM-GPT."""
    by_device = {o.device: o for o in found.at(Load("llama-2-70b", 1))}
    assert (by_device["h100-sxm"].devices, by_device["h100-sxm"].weight_bits) == (2, 0)
    assert (by_device["t4"].devices, by_device["t4"].weight_bits) == (8, 8)
    for device in ("pim-gpt", "ryzen-7840u-laptop"):
        assert "does not fit" in by_device[device].refused
        assert by_device[device].tokens_per_s is None


def test_one_table_and_one_plot(found: DeviceComparison) -> None:
    """A line per device, a column per load, a note per refusal; the plot names machines and the H100."""
    table = grid(found)
    assert [line.cells[0] for line in table.lines] == list(DEVICES)
    assert len(table.columns) == 2 + len(found.loads)
    assert "(8×, 8 bit)" in table.lines[1].cells[4]
    assert sum("does not fit" in note for note in table.notes) == 2
    (picture,) = pictures(found)
    assert "pim-gpt" in picture.svg
    assert "h100-sxm" in picture.svg


def test_unknown_model_is_refused() -> None:
    """Before anything is predicted."""
    with pytest.raises(ValueError, match="llama-2-7b"):
        compare_devices(PLAN, ("t4",), ("llama-2-7bb",), (1,))
