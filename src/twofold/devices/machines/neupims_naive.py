"""The NPU of NeuPIMs with processing in memory that works in turns with it: its baseline "NPU+PIM".

Source: Heo et al., "NeuPIMs" (ASPLOS 2024, arXiv:2403.00579). Attention of single queries is multiplied in
the banks, as Newton does (He et al., MICRO 2020): each request lies in one channel, round robin, its tokens
dealt out over the banks for the keys, its dimensions for the values. A bank has one row buffer, so that
memory and arithmetic take turns, and the scores of all heads are done before their softmax begins. Prompts
are the NPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log, sqrt
from typing import NamedTuple

from twofold.devices.machine import Peaks
from twofold.devices.machines.neupims_npu import ARTEFACT, NeupimsNpu, NpuFigures
from twofold.devices.parts.bank_mac import MacStream, stream_seconds
from twofold.devices.parts.dram import NS, DramWork
from twofold.devices.parts.vector_unit import softmax
from twofold.devices.parts.work import Work
from twofold.ops import Attention

_ELEMENT = 2  # bytes of an fp16
SOURCES = {
    **NeupimsNpu.sources,
    "gwrite": ARTEFACT + "extern/NewtonSim/src/configuration.cc: (tCCD_S + tCCD_L) * 32",
}
"""Where each figure of `PimFigures` comes from."""


@dataclass(frozen=True, slots=True)
class PimFigures(NpuFigures):
    """gwrite: seconds of a PIM_GWRITE, which fills the vector buffer of a channel from a row."""

    gwrite: float = 96 * NS


class Gemv(NamedTuple):
    """A request's product in the banks of its channel: seconds, rows opened in each bank, multiply commands,
    results read."""

    seconds: float
    rows: int
    macs: int
    reads: int


class NeupimsNaive(NeupimsNpu):
    """The modelled machine. `figures`: its numbers."""

    name = "neupims-naive"
    title = "The NPU of NeuPIMs with PIM that takes turns"
    kind = "npu+pim"
    source = "baseline of NeuPIMs, arXiv:2403.00579; ASPLOS 2024"
    sources = SOURCES

    figures: PimFigures

    def __init__(self, figures: PimFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or PimFigures(), tp=tp)

    def peaks(self) -> Peaks:
        """Of the banks and the arrays."""
        hbm = self.figures.hbm
        joules = hbm.energy.mac / (hbm.shape.banks * hbm.shape.column_bytes)
        return replace(super().peaks(), bytes_per_second=hbm.bank_bandwidth, joules_per_byte=joules)

    # --- attention ---

    def attention(self, op: Attention) -> Work:
        """Prompts on the NPU; then scores in the banks, softmax on the NPU, values in the banks."""
        prompts = self._prompts(op)
        if not op.totals.singles:
            return prompts
        scores = self._in_banks(op, self._scores)
        values = self._in_banks(op, self._values)
        return prompts.then(scores).then(self._softmax(op)).then(values)

    def _prompts(self, op: Attention) -> Work:
        self._check(op)
        if op.widen_flop or op.format:
            raise self.refusal(op, "its banks multiply keys and values in 16 bits; keep a dense cache")
        t = op.totals
        return self._on_npu(op, op.cache_bytes * (t.keys - t.single_keys) // max(1, t.keys), decode=False)

    def _softmax(self, op: Attention) -> Work:
        """Of single queries, whose results are stored for the banks to take up."""
        t = op.totals
        rows = softmax(-(-t.single_keys // t.singles)) * (t.singles * op.heads)
        stored = self.figures.hbm.store(t.single_keys * op.heads * _ELEMENT)
        return self.figures.vector.run(rows).beside(stored)

    def _in_banks(self, op: Attention, gemv: Callable[[Attention, int], Gemv]) -> Work:
        """All requests' products, for which the busiest channel is waited."""
        t, hbm = op.totals, self.figures.hbm
        mean, longest = gemv(op, -(-t.single_keys // t.singles)), gemv(op, t.max_keys)
        done = DramWork(
            self.busiest(t.singles, mean.seconds, longest.seconds),
            activates=mean.rows * hbm.shape.banks * t.singles,
            macs=mean.macs * t.singles,
            bus_bytes=mean.reads * hbm.shape.banks * _ELEMENT * t.singles,
        )
        return Work.of("in-bank", done.seconds, hbm.joules(done))

    def busiest(self, requests: int, mean: float, longest: float) -> float:
        """Expected seconds of the busiest channel, requests being dealt out in turn: of normally distributed
        times whose greatest is `longest`, sums of as many as a channel gets."""
        channels = self.figures.hbm.shape.channels
        if requests <= channels:
            return longest
        each = -(-requests // channels)
        return each * mean + (longest - mean) * sqrt(each * log(channels) / log(requests))

    def _scores(self, op: Attention, keys: int) -> Gemv:
        """q k^T of one request: a bank holds every 32nd token, heads side by side in a row."""
        s = self.figures.hbm.shape
        outputs = -(-keys // s.banks) * op.kv_heads
        columns = self.figures.hbm.columns_of(op.head_dim * _ELEMENT)
        fills = -(-op.kv_heads * columns // s.columns)
        return self._gemv(op, outputs, columns, fills, packed=True)

    def _values(self, op: Attention, keys: int) -> Gemv:
        """s v of one request: a bank holds every 32nd dimension, tokens side by side in a row."""
        s = self.figures.hbm.shape
        outputs = -(-op.v_dim // s.banks) * op.kv_heads
        columns = self.figures.hbm.columns_of(keys * _ELEMENT)
        return self._gemv(op, outputs, columns, -(-columns // s.columns) * op.kv_heads, packed=False)

    def _gemv(self, op: Attention, outputs: int, columns: int, fills: int, *, packed: bool) -> Gemv:
        hbm, group = self.figures.hbm, op.heads // op.kv_heads
        stream = MacStream(outputs, columns, fill=0, reuse=group, packed=packed)
        filling = fills * group * self.figures.gwrite * hbm.timing.refresh_factor
        rows = stream.rows(hbm.shape.columns)
        return Gemv(filling + stream_seconds(hbm, stream), rows, stream.macs, stream.reads)


MACHINE = NeupimsNaive
