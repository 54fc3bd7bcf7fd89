"""The row-stationary mapping against one that is played pass by pass, and Eyeriss's own figures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.parts.row_stationary import RowStationary
from twofold.ops import Conv2d


def conv(
    inputs: int, outputs: int, size: int, kernel: int, *, batch: int = 1, groups: int = 1, stride: int = 1
) -> Conv2d:
    stored = 2 * outputs * inputs // groups * kernel**2
    return Conv2d(
        batch, inputs, outputs, size, size, kernel, "f16", stored, "fp16", 2, stride=stride, groups=groups
    )


@pytest.mark.parametrize(
    ("layer", "active"),
    [
        (conv(3, 96, 227, 11, batch=4, stride=4), 154),
        (conv(48, 128, 31, 5, batch=4), 135),
        (conv(256, 384, 15, 3, batch=4), 156),
        (conv(192, 192, 15, 3, batch=4), 156),
        (conv(192, 128, 15, 3, batch=4), 156),
    ],
    ids=lambda value: "",
)
def test_active_elements_of_eyeriss(layer: Conv2d, active: int) -> None:
    """AlexNet on 12 x 14 elements: as published (JSSC 2017, table V; nn-dataflow's test has the same)."""
    done = RowStationary(12, 14).convolution(layer)
    assert done.utilisation * 12 * 14 == pytest.approx(active, rel=0.02)


def played(array: RowStationary, op: Conv2d) -> tuple[int, int]:
    """Passes of a convolution that fits without folding, played greedily: the array is filled set by set with
    pairs of channels of one group, all of which must be seen; their count, and pairs seen."""
    down, across = array.rows // op.kernel, array.columns // op.out_height
    inputs, outputs = op.in_channels // op.groups, op.out_channels // op.groups
    best = 0
    for ins in (n for n in range(1, down + 1) if down % n == 0):
        side = min(ins, inputs), min(down // ins * across, outputs)
        passes = seen = 0
        for first in range(0, op.out_channels, side[1]):
            outs = range(first, min(first + side[1], op.out_channels))
            for start in range(0, inputs, side[0]):
                passes += 1
                seen += len(outs) * (min(start + side[0], inputs) - start)
        assert seen == inputs * op.out_channels
        best = min(best or passes, passes)
    return best * op.batch, best


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(3, 20),
    columns=st.integers(4, 20),
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    groups=st.integers(1, 4),
    batch=st.integers(1, 3),
)
def test_passes_cover_all_channels(
    rows: int, columns: int, channels: tuple[int, int], groups: int, batch: int
) -> None:
    """Each pair of channels of a group is done once, in the fewest passes that the split allows."""
    op = conv(channels[0] * groups, channels[1] * groups, 6, 3, batch=batch, groups=groups)
    array = RowStationary(rows, columns)
    done = array.convolution(op)
    assert done.cycles == played(array, op)[0] * op.kernel * op.out_width
    assert 0 < done.utilisation <= 1


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    kernel=st.integers(1, 7),
    size=st.integers(7, 40),
    channels=st.integers(1, 40),
)
def test_never_more_than_the_array(rows: int, columns: int, kernel: int, size: int, channels: int) -> None:
    """However a set is folded; every multiplication touches three registers, and numbers enter at least
    once."""
    op = conv(channels, channels + 3, size, kernel)
    done = RowStationary(rows, columns).convolution(op)
    assert done.utilisation <= 1 + 1e-12
    assert done.registers == 3 * op.macs
    assert done.buffer >= channels * (channels + 3) * kernel**2
    assert done.network > 0


def test_depthwise_layers_leave_the_array_idle() -> None:
    """One channel of a group at a time; twice the channels take half the passes for twice the work."""
    array = RowStationary(64, 64)
    one, two = (array.convolution(conv(64, 64, 16, 3, groups=64 // g)) for g in (1, 2))
    assert one.utilisation == pytest.approx(3 * 14 / 64**2)
    assert two.cycles * 2 == one.cycles
    assert two.utilisation == pytest.approx(4 * one.utilisation)


def test_bad_arrays_are_refused() -> None:
    """Without elements."""
    with pytest.raises(ValueError, match="must be positive, not 0, 64"):
        RowStationary(0, 64)
