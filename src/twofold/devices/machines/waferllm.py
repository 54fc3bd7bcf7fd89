"""WaferLLM: a whole wafer of small cores on a mesh, with the model in their memories.

Source: He et al., "WaferLLM: large language model inference at wafer scale" (arXiv:2502.04563; OSDI 2025), on
a Cerebras WSE-2. Weights and cache are cut over both axes of a square of cores. One token at a time is
multiplied by MeshGEMV: local products, then a K-tree all-reduce along the columns; prompts by MeshGEMM, whose
tiles go around rings of two-hop neighbours. A square is as large as its products want, not as the wafer is:
layers lie in squares side by side, and one request is in one of them at a time. New keys and values shift
older ones up the columns, so that all cores hold as many.

Counted around vectors are what an instruction log of such kernels shows: how far apart instructions start,
descriptors, and a round's messages and tasks. Not counted: calls and checks of the source's own functions,
and the way of activations from square to square, under one per cent.
"""

from __future__ import annotations

from operator import attrgetter
from typing import ClassVar

from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of, elements_of
from twofold.devices.parts.core import ELEMENT, PER_MAC
from twofold.devices.parts.mesh import Reduction, Shifting
from twofold.devices.parts.vector_unit import Arithmetic, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.devices.wafer_figures import SOURCES, WaferFigures
from twofold.ops import AddNorm, Attention, CacheWrite, Embedding, Gather, Linear, Norm, Op, RotaryQKV, Sample
from twofold.ops.base import Precision

_FORMATS = ("f16", "fp16", "bf16")
_SECONDS = attrgetter("seconds")


class WaferLlm(Machine):
    """The modelled machine. reduction, shifting: how it sums and multiplies."""

    name = "waferllm"
    title = "WaferLLM on a Cerebras WSE-2"
    kind = "wafer"
    source = "WaferLLM, arXiv:2502.04563; OSDI 2025"
    note = (
        "single products of decoding are within a tenth of published measurements; decoding as a whole is "
        "half as fast again, prompts are three tenths faster than published"
    )
    precisions = ("fp16", "bf16")
    sources = SOURCES
    more = ("core.operand_bytes", "mesh.hertz", "mesh.link_bytes")

    reduction: ClassVar[Reduction] = "k-tree"
    shifting: ClassVar[Shifting] = "interleaved"

    figures: WaferFigures

    def __init__(self, figures: WaferFigures | None = None, *, tp: int = 1) -> None:
        f = figures or WaferFigures()
        super().__init__(f, memory=f.cores * f.core.nbytes, idle_watts=f.watts - f.busy_watts, tp=tp)
        self.mesh, self.core = f.mesh, f.core

    def peaks(self) -> Peaks:
        """Of all cores: a weight in each lane and cycle."""
        flop: dict[Precision, float] = dict.fromkeys(self.precisions, 2 * self.figures.macs_per_second)
        fetched = ELEMENT * self.figures.macs_per_second
        return Peaks(fetched, flop, self.core.byte_joules, self.core.flop_joules)

    # --- what an op takes ---

    def work(self, op: Op) -> Work:
        """See `Machine.work`."""
        if (act_bytes := getattr(op, "act_bytes", ELEMENT)) != ELEMENT:
            raise self.refusal(
                op,
                f"its cores compute on 16-bit activations, not {act_bytes} bytes; plan with precision fp16",
            )
        return super().work(op)

    def linear(self, op: Linear) -> Work:
        """By MeshGEMV on the square for tokens or by MeshGEMM on the one for prompts: what is faster."""
        if type(op) is not Linear or op.format not in _FORMATS:
            raise self.refusal(
                op,
                f"its cores multiply dense 16-bit weights, not {type(op).__name__} of {op.format}; store the "
                "weights as fp16",
            )
        if op.space != "device":
            raise self.refusal(op, f"weights lie in the cores' memories, not in {op.space} memory")
        self.check_precision(op)
        macs = op.tokens * op.depth * op.out_features
        ways = (self.gemv, self.gemm)
        return min((way(op.tokens, op.depth, op.out_features) for way in ways), key=_SECONDS).then(
            self._multiplying(macs)
        )

    def gemv(self, tokens: int, inputs: int, outputs: int) -> Work:
        """`tokens` vectors times a matrix: local products, then one all-reduce of all their results. Without
        the energy of multiplying."""
        side = self.figures.decode_side
        rows, columns = -(-inputs // side), -(-outputs // side)
        sums = self._sums(side, tokens * columns, 2 * side * tokens * outputs)
        return self._array(tokens * self.core.mapped(rows, columns)).then(sums)

    def gemm(self, tokens: int, inputs: int, outputs: int) -> Work:
        """Matrix times matrix in rounds of moving tiles: each element of the right one times a column of the
        left one. Without the energy of multiplying."""
        side = self.figures.prefill_side
        m, k, n = -(-tokens // side), -(-inputs // side), -(-outputs // side)
        left, right = self._words(m * k), self._words(k * n)
        compute = self._round(k, n, m, left + right)
        cycles = self.mesh.multiply(side, compute, left, right, self.shifting)
        moved = 2 * side * (tokens * inputs + inputs * outputs)
        return self._rounds(cycles, side * compute, moved)

    def attention(self, op: Attention) -> Work:
        """Sequences of one new token over the square for tokens, prompts over the one for prompts."""
        if type(op) is not Attention or op.widen_flop or op.space != "device":
            raise self.refusal(
                op, "it multiplies the whole cache as 16-bit numbers where it lies; keep a dense cache there"
            )
        self.check_precision(op)
        t = op.totals
        work = self._multiplying(t.pairs * op.heads * (op.head_dim + op.v_dim))
        if t.singles:
            work = work.then(self._attend_token(op, t.singles, t.single_keys))
        if queries := t.queries - t.singles:
            work = work.then(self._attend_prompt(op, queries, t.pairs - t.single_keys))
        return work

    def _attend_token(self, op: Attention, queries: int, keys: int) -> Work:
        """Keys lie along the columns, elements of heads along the rows; a head's scores are summed over the
        cores that share it, its softmax and its output over the columns."""
        side = self.figures.decode_side
        rows = max(queries, -(-keys // side))
        line, heads = max(1, side // op.heads), -(-op.heads // side)
        width, values = -(-op.heads * op.head_dim // side), -(-op.heads * op.v_dim // side)
        softmaxes = self._softmax(rows, op.heads * side, op.heads * side // heads)
        cycles = queries * (
            self.core.mapped(width, -(-rows // queries)) + self.core.mapped(-(-rows // queries), values)
        )
        array = self._array(cycles).then(softmaxes)
        scores = self._sums(line, rows * heads, 2 * side * keys * op.heads)
        maximum = self._sums(side, queries * heads, 2 * side * queries * op.heads)
        output = self._sums(side, queries * values, 2 * side * queries * op.heads * op.v_dim)
        return array.then(scores).then(maximum * 2).then(output)

    def _attend_prompt(self, op: Attention, queries: int, pairs: int) -> Work:
        """Keys, then values, go around the columns while queries stay."""
        side, how = self.figures.prefill_side, self.shifting
        keys = -(-pairs // queries)
        m, k = -(-queries // side), -(-keys // side)
        line = max(1, side // op.heads)
        width, values = -(-op.heads * op.head_dim // side), -(-op.heads * op.v_dim // side)
        compute = (
            self._round(width, k, m, self._words(k * width)),
            self._round(k, values, m, self._words(m * k) + self._words(k * values)),
        )
        cycles = self.mesh.multiply_transposed(
            side, compute[0], self._words(k * width), self._words(m * k), line, how
        ) + self.mesh.multiply(side, compute[1], self._words(m * k), self._words(k * values), how)
        moved = 2 * side * (keys * op.heads * (op.head_dim + op.v_dim) + queries * keys)
        rounds = self._rounds(cycles, side * sum(compute), moved)
        softmaxes = self._softmax(k, m * op.heads * side**2, side**2)
        return rounds.then(softmaxes).then(self._sums(side, m, 2 * side * queries) * 2)

    def cache_write(self, op: CacheWrite) -> Work:
        """New entries push the oldest of each row to the row above, or stay where a prompt made them."""
        if op.pack_flop or op.space != "device" or op.cache_bytes != op.tokens * op.width * ELEMENT:
            raise self.refusal(op, "cores keep keys and values as 16-bit numbers; keep a dense cache there")
        decode, prefill = self.figures.decode_side, self.figures.prefill_side
        width = -(-op.width // decode) * op.tokens
        stored = self.core.cycles(-(-op.tokens // prefill) * -(-op.width // prefill))
        cycles = min(self.mesh.message(1, self._words(width)), stored)
        seconds = max(cycles / self.mesh.hertz, op.cache_bytes / self.peaks().bytes_per_second)
        joules = op.cache_bytes * (self.core.byte_joules + self.figures.hop_joules)
        return Work.of("sram", seconds, joules)

    def embedding(self, op: Embedding) -> Work:
        """Rows of the table from the cores that hold them to a line of cores."""
        side = self.figures.decode_side
        words = self._words(op.tokens * op.tables * -(-op.width // side))
        nbytes = op.tokens * op.tables * op.row_bytes
        joules = nbytes * (self.core.byte_joules + side * self.figures.hop_joules)
        sent = Work.of("mesh", self.mesh.message(side, words) / self.mesh.hertz, joules)
        return sent.then(self.elementwise(op)) if op.tables > 1 else sent

    def elementwise(self, op: Op) -> Work:
        """On tokens that every row of cores has, or on a prompt that is cut over rows: what is faster. Norms
        and the choice of a token need sums over all cores that share a vector."""
        if isinstance(op, Gather):
            return NOTHING
        arithmetic = arithmetic_of(op)
        assert arithmetic is not None
        decode, prefill = self.figures.decode_side, self.figures.prefill_side
        elements = elements_of(op)
        tokens, sums = _sums_of(op)
        ways = [
            self._arithmetic(arithmetic, elements, decode).then(
                self._sums(decode, tokens, 2 * decode * tokens) * sums
            ),
            self._arithmetic(arithmetic, elements, prefill**2).then(
                self._sums(prefill, -(-tokens // prefill), 2 * prefill * tokens) * sums
            ),
        ]
        return min(ways, key=_SECONDS)

    # --- cycles of parts ---

    def _words(self, elements: int) -> int:
        return self.mesh.words(elements * ELEMENT)

    def _array(self, cycles: int) -> Work:
        """Cycles of multiplying on the busiest core."""
        return Work.of("array", cycles / self.mesh.hertz)

    def _round(self, inner: int, columns: int, rows: int, words: int) -> int:
        """Cycles of a core in one round: for each of `inner` rows of its right tile an instruction for each
        element, which is multiplied with a column of `rows` numbers of the left one; the core also takes
        `words` off the network, one a cycle."""
        return self.figures.round_cycles + inner * self.core.mapped(columns, rows) + words

    def _multiplying(self, macs: int) -> Work:
        """The energy of `macs` multiply-accumulates, wherever they run."""
        c = self.core
        return Work(0.0, {"array": 2 * macs * c.flop_joules, "sram": macs * PER_MAC * c.byte_joules})

    def _arithmetic(self, work: Arithmetic, elements: int, cores: int) -> Work:
        """Additions and multiplications on `elements` shared by `cores`: an instruction for each operation
        that an element takes."""
        return self._vectors(-(-_count(work) // elements), -(-elements // cores), work)

    def _softmax(self, scores: int, rows: int, cores: int) -> Work:
        """Of `rows` of so many scores, shared by `cores`: instructions go through all that a core has."""
        return self._vectors(_count(softmax(1)), -(-scores * rows // cores), softmax(scores) * rows)

    def _vectors(self, instructions: int, length: int, work: Arithmetic) -> Work:
        """`work` by `instructions` over `length` elements on each core. Other cores that do the same on
        copies of the same numbers draw well under a hundredth of the wafer's power, which is not counted."""
        cycles = self.core.vectors(instructions, length)
        return Work.of("vector", cycles / self.mesh.hertz, _count(work) * self.core.mac_joules)

    def _sums(self, cores: int, elements: int, moved: float) -> Work:
        """An all-reduce along lines of `cores` that hold `elements` each; moved: elements times hops in
        all."""
        f = self.figures
        cycles = self.mesh.all_reduce(cores, self._words(elements), self.reduction, f.phases)
        if cores > 1:  # instructions: for each side of each phase, and one that takes the result
            cycles += self.core.mapped(2 * f.phases + 1 if self.reduction == "k-tree" else 2, 0)
        return Work.of("mesh", cycles / self.mesh.hertz, moved * ELEMENT * f.hop_joules)

    def _rounds(self, cycles: int, compute: int, moved: float) -> Work:
        """Rounds of `cycles` in all, of which `compute` were enough without a mesh."""
        joules = {"mesh": moved * ELEMENT * self.figures.hop_joules}
        return Work(
            cycles / self.mesh.hertz,
            joules,
            {"array": compute / self.mesh.hertz, "mesh": (cycles - compute) / self.mesh.hertz},
        )


def _count(work: Arithmetic) -> int:
    """Operations of either kind."""
    return work.mul + work.add


def _sums_of(op: Op) -> tuple[int, int]:
    """Numbers that each core puts into a sum over those that share a vector, and how many such sums."""
    match op:
        case Norm() | AddNorm():
            return op.tokens, 1
        case RotaryQKV() if op.qk_norm:
            return op.tokens * (op.heads + op.kv_heads), 1
        case Sample():
            return op.rows, 1
    return 1, 0


MACHINE = WaferLlm
