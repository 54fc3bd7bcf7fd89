"""Arrays of processing elements with buffers, lanes and a DRAM: what streams, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.array_figures import ArrayFigures, Buffers, Stream
from twofold.devices.catalog import energy_table
from twofold.devices.machines.fp16_array import Fp16Array
from twofold.devices.machines.int8_array import Int8Array
from twofold.devices.machines.mixpe import MixPe
from twofold.devices.pe_array import PeArray, operand_bits, rescaling
from twofold.devices.registry import machine_class
from twofold.ops import Attention, BitPlaneLinear, CacheWrite, Linear, SparseLinear
from twofold.ops.attention import Span, total_spans
from twofold.techniques.weights.bipolar_int import BipolarInt
from twofold.techniques.weights.gptq import Gptq
from twofold.techniques.weights.int_vs_fp import IntVsFp
from twofold.techniques.weights.olive import Olive
from twofold.techniques.weights.smoothquant import SmoothQuant

SIZE = 4096


def product(technique: object, tokens: int) -> Linear:
    op: Linear = technique.weight_scheme().pack(None, SIZE, SIZE).op(tokens, "bf16")  # type: ignore[attr-defined]
    return op


def dense(tokens: int) -> Linear:
    return Linear(tokens, SIZE, SIZE, "bf16", 2 * SIZE * SIZE, "bf16", 2)


def test_operands_have_the_bits_that_techniques_give_them() -> None:
    """W4A8, W8A8, W4A4, W4A16 and W16A16 as the techniques emit them."""
    assert operand_bits(product(BipolarInt(wbits=4, abits=8), 1)) == (4, 8)
    assert operand_bits(product(IntVsFp("mxint4", activations="mxint8"), 1)) == (4, 8)
    assert operand_bits(product(SmoothQuant(), 1)) == (8, 8)
    assert operand_bits(product(Olive(), 1)) == (4, 4)
    assert operand_bits(product(Gptq(), 1)) == (4, 16)
    assert operand_bits(dense(1)) == (16, 16)


def test_planes_of_bits_are_scaled_a_group_at_a_time() -> None:
    """Two operations for each output and group of 128; not those that take integers apart."""
    op = product(BipolarInt(group=128), 4)
    assert isinstance(op, BitPlaneLinear)
    assert rescaling(op) == 2 * 4 * SIZE * SIZE // 128
    assert MixPe().around(op) == 4 * 4 * SIZE + rescaling(op)


@pytest.mark.parametrize("tokens", [1, 64])
def test_fewer_bits_stream_faster(tokens: int) -> None:
    """Where the DRAM bounds a product, 4-bit weights take half the time of 8-bit ones."""
    machine = Int8Array(replace(Int8Array().figures, dram=Stream(bandwidth=1e9)))
    eight, four = (machine.linear(product(t, tokens)) for t in (SmoothQuant(), BipolarInt()))
    assert eight.bound == four.bound == "dram"
    assert eight.seconds / four.seconds == pytest.approx(2, rel=0.05)


def test_floats_take_the_lanes_of_an_array_of_integers() -> None:
    """Slower by about the ratio of lanes to elements, and never refused."""
    machine = Int8Array()
    integers, floats = machine.linear(product(SmoothQuant(), 64)), machine.linear(dense(64))
    assert floats.bound == "vector"
    assert integers.bound == "array"
    assert floats.seconds / integers.seconds == pytest.approx(32, rel=0.1)


def test_inputs_that_fit_no_buffer_are_read_again() -> None:
    """The cheaper of both loops: never more than reading weights anew for each piece of the inputs."""
    f = ArrayFigures(28, 32, 32, 32, buffers=Buffers(1 << 14, 1 << 16, 1 << 16))
    small, large = Int8Array(f), Int8Array(replace(f, buffers=Buffers(1 << 24, 1 << 26, 1 << 26)))
    op = product(SmoothQuant(), 64)
    again, once = (m.linear(op).joules["dram"] for m in (small, large))
    assert once == pytest.approx(op.weight_bytes * f.dram.read)
    inputs = op.tokens * SIZE
    outputs = op.tokens * SIZE * 2 * f.dram.write
    assert once < again <= (inputs + 8 * op.weight_bytes) * f.dram.read + outputs


def test_a_byte_of_its_dram_takes_what_published_memories_take() -> None:
    """No less than the cheapest memory that the catalogue has a figure for."""
    published = min(figure.value for figure in energy_table().memory.values())
    assert min(Stream().read, Stream().write) >= published


def test_attention_of_one_query_leaves_rows_empty() -> None:
    """On an array of floats a query alone takes as long as a tile of as many queries as heads share its
    keys."""
    machine = Fp16Array(replace(Fp16Array().figures, dram=Stream(bandwidth=1e15), lanes=1 << 20))

    def attend(spans: list[Span], heads: int, kv_heads: int) -> float:
        op = Attention(total_spans(spans), heads, kv_heads, 128, 128, 1000, "bf16", 2)
        return machine.attention(op).seconds

    alone, shared = attend([Span(1, 4096)], 32, 32), attend([Span(1, 4096)], 32, 8)
    assert alone == pytest.approx(4 * shared)
    prompt = attend([Span(64, 4096)], 32, 32)
    assert prompt < 2.5 * alone, "64 queries fill 32 rows twice"


@pytest.mark.parametrize("machine", [Int8Array(), Fp16Array()], ids=lambda m: m.name)
def test_what_cannot_be_done_is_refused(machine: PeArray) -> None:
    """Sparse weights, other memories, other precisions: the reason, and what to do."""
    t = total_spans([Span(1, 16)])
    for op, why in (
        (SparseLinear(1, 64, 64, "bf16", 4096, "bf16", 2, kept=2048), "store the weights whole"),
        (Linear(1, 64, 64, "bf16", 8192, "bf16", 2, "host"), "its own DRAM"),
        (Linear(1, 64, 64, "fp8", 4096, "fp8", 1), "plan with precision bf16"),
        (Attention(t, 4, 4, 64, 64, 999, "bf16", 2, space="host"), "dense or quantised cache"),
        (CacheWrite(1, 64, 128, 2, space="host"), "its own DRAM"),
    ):
        with pytest.raises(ValueError, match=why):
            machine.charge(op, op.cost())


@pytest.mark.parametrize("technique", [BipolarInt(), BipolarInt(wbits=2, abits=3), SmoothQuant(), Olive()])
@pytest.mark.parametrize("name", ["int8-array", "mixpe", "olive"])
@pytest.mark.parametrize("tokens", [1, 33, 1000])
def test_integers_obey_the_hardware(name: str, technique: object, tokens: int) -> None:
    """Bytes over the bandwidth, FLOP over the rate, and the energy of both."""
    machine, op = machine_class(name).make(), product(technique, tokens)
    if op.format.startswith("ovp") and name != "olive":
        return
    work, cost, peaks = machine.linear(op), op.cost(), machine.peaks()
    assert work.seconds >= op.weight_bytes / peaks.bytes_per_second
    assert work.seconds >= cost.flop / peaks.flop_per_second[cost.precision]
    assert work.total_joules >= op.weight_bytes * peaks.joules_per_byte
    assert work.total_joules >= cost.flop * peaks.joules_per_flop
    longer = machine.linear(product(technique, tokens + 1))
    assert longer.seconds >= work.seconds
    assert longer.total_joules > work.total_joules


def test_figures_are_checked() -> None:
    """Nothing may be nothing."""
    with pytest.raises(ValueError, match="at least 2"):
        ArrayFigures(28, 1, 32, 32)
    with pytest.raises(ValueError, match="buffers must hold"):
        Buffers(0)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        Stream(bandwidth=0)


def test_area_is_that_of_its_parts() -> None:
    """Twice the columns: twice the elements; buffers and lanes as they were."""
    machine = Int8Array()
    wide = Int8Array(replace(machine.figures, columns=64))
    assert wide.array_mm2 == pytest.approx(2 * machine.array_mm2)
    assert wide.area_mm2 - machine.area_mm2 == pytest.approx(machine.array_mm2)
    assert machine.area_mm2 > machine.array_mm2 + machine.logic.sram_area(512 << 10)
