"""Matrix-vector products in DRAM banks: every bank multiplies a column of its own row with a broadcast piece
of the input.

A channel holds a buffer with part of the input vector. One command multiplies, in all banks at once, a column
(say 16 numbers) with the matching numbers in the buffer and adds up; when an output is complete, one column
read fetches that output of all banks. A product is a list of streams: each fills the buffer, then runs
through rows of the matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from twofold.devices.parts.dram import Dram, DramWork


@dataclass(frozen=True, slots=True)
class MacStream:
    """What one channel does with one filling of its buffer; every bank and every channel does the same in
    lockstep.

    outputs: outputs per bank; columns: stored columns per output; fill: columns written to the buffer first;
    reuse: times that each stored column is multiplied (query heads that share a key head); packed: whether
    outputs follow each other within a row, or each begins a row of its own (room to grow).
    """

    outputs: int
    columns: int
    fill: int
    reuse: int = 1
    packed: bool = True

    def rows(self, row_columns: int) -> int:
        """Rows that a bank opens, of `row_columns` columns each."""
        if self.packed:
            return -(-self.outputs * self.columns // row_columns)
        return self.outputs * -(-self.columns // row_columns)

    @property
    def macs(self) -> int:
        """All-bank multiply commands."""
        return self.outputs * self.columns * self.reuse

    @property
    def reads(self) -> int:
        """Reads of finished outputs, each of one column for all banks of the channel."""
        return self.outputs * self.reuse

    def hidden_reads(self, row_columns: int) -> int:
        """Reads that pass while a row closes, because an output ends where the row ends."""
        if not self.packed:
            return self.outputs
        period = row_columns // math.gcd(self.columns, row_columns)
        aligned = self.outputs // period
        ends_open = (self.outputs * self.columns) % row_columns != 0
        return aligned + (1 if ends_open else 0)


def stream_seconds(dram: Dram, stream: MacStream) -> float:
    """Seconds of one stream, from the first command until all rows are closed; refresh spread evenly.

    A full row takes activate-to-multiply, its columns, read-to-precharge and precharge; the buffer is filled
    while the first row opens.
    """
    t, width = dram.timing, dram.shape.columns
    if stream.outputs == 0:
        return 0.0
    rows = stream.rows(width)
    per_row = (stream.macs * t.ccd_mac + (stream.reads - stream.hidden_reads(width)) * t.ccd) / rows

    def row(opening: float) -> float:
        return max(max(opening + per_row - t.ccd_mac + t.rtp, t.ras) + t.rp, t.rc)

    seconds = row(max(t.rcd_mac, stream.fill * t.ccd)) + (rows - 1) * row(t.rcd_mac)
    return seconds * t.refresh_factor


def run(dram: Dram, streams: list[MacStream]) -> DramWork:
    """The streams one after the other, on all channels in lockstep."""
    s = dram.shape
    work = DramWork()
    for stream in streams:
        columns = stream.fill + stream.reads
        work += DramWork(
            stream_seconds(dram, stream),
            activates=stream.rows(s.columns) * s.all_banks,
            macs=stream.macs * s.channels,
            bus_bytes=columns * s.column_bytes * s.channels,
        )
    return work


def matrix_streams(
    dram: Dram, outputs: int, inputs: int, element_bytes: int, buffer_bytes: int
) -> list[MacStream]:
    """Streams of y[outputs] = W[outputs, inputs] x: rows of W dealt out over all banks, row-major in each.

    An input longer than the buffer is cut into pieces; the matrix is stored piece by piece, so that a filling
    serves all outputs. Each piece yields partial sums.
    """
    per_bank = -(-outputs // dram.shape.all_banks)
    piece = buffer_bytes // element_bytes
    streams = []
    for start in range(0, inputs, piece):
        columns = dram.columns_of(min(piece, inputs - start) * element_bytes)
        streams.append(MacStream(per_bank, columns, fill=columns))
    return streams
