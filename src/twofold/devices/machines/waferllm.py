"""WaferLLM: a whole wafer of small cores on a mesh, with the model in their memories.

Source: He et al., "WaferLLM: large language model inference at wafer scale" (arXiv:2502.04563; OSDI 2025), on
a Cerebras WSE-2. Weights and cache are cut over both axes of a square of cores. One token at a time is
multiplied by MeshGEMV: local products, then a K-tree all-reduce along the columns; prompts by MeshGEMM, whose
tiles go around rings of two-hop neighbours. A square is as large as its products want, not as the wafer is:
layers lie in squares side by side, and one request is in one of them at a time. New keys and values shift
older ones up the columns, so that all cores hold as many.

What the model does not have: instructions around vector operations (the source speaks of function calls and
checks), which small tiles feel most, and the way of activations from square to square, under one per cent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import ClassVar

from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.core import ELEMENT, PER_MAC, Core
from twofold.devices.parts.mesh import Mesh, Reduction, Shifting
from twofold.devices.parts.vector_unit import Arithmetic, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import AddNorm, Attention, CacheWrite, Embedding, Gather, Linear, Norm, Op, RotaryQKV, Sample
from twofold.ops.base import Precision

_FORMATS = ("f16", "fp16", "bf16")
_SECONDS = attrgetter("seconds")

PAPER = "arXiv:2502.04563, OSDI 2025"
SOURCES = {
    "cores, core.nbytes": PAPER + ", section 7: 850,000 cores with 48 KB each",
    "core.operand_bytes": PAPER
    + ", section 7: two 32-bit operands from SRAM, a multiply-accumulate and a write "
    "back in each cycle (22 PB/s, which the text gives too, would be twice as much)",
    "mesh.hertz": PAPER + ", section 7: 1.1 GHz at most",
    "mesh.hop, mesh.link_bytes": PAPER + ", section 7: 32 bits to or from a neighbour in one cycle",
    "mesh.route": "Luczynski et al., Near-optimal wafer-scale reduce, arXiv:2404.15888: 2 T_R + 1 cycles, "
    "with T_R = 2 on WSE-2 (as quoted by later readers)",
    "mesh.paths": PAPER + ", section 3.1: addresses of 5 bits",
    "decode_side, prefill_side": PAPER + ", section 7.1: 360 x 360 and 660 x 660 cores for LLaMA3-8B",
    "phases": PAPER + ", section 6.2: K = 2",
    "watts": PAPER + ", section 7.5: 37 times an A100 of 400 W; 15 kW in the press (AnandTech, 2021)",
    "core.process.node": PAPER + ", section 7: 7 nm; energies by parts/energy.py",
    "hop_joules": PAPER + ", table 1: about 0.1 pJ a bit from die to die on the wafer; within a die assumed "
    "the same",
}
"""Where each figure of `WaferFigures` comes from."""


@dataclass(frozen=True, slots=True)
class WaferFigures:
    """The wafer. Defaults: SOURCES says where each comes from.

    decode_side, prefill_side: of the square of cores that a token, or a prompt, is multiplied on; phases: K
    of the K-tree; watts: of the wafer with every core multiplying; hop_joules: of a byte to a neighbour.
    """

    cores: int = 850_000
    core: Core = field(default_factory=lambda: Core(nbytes=48 * 1024, operand_bytes=4))
    mesh: Mesh = field(default_factory=lambda: Mesh(hertz=1.1e9, hop=1, route=5, link_bytes=4, paths=32))
    decode_side: int = 360
    prefill_side: int = 660
    phases: int = 2
    watts: float = 15e3
    hop_joules: float = 0.1e-12 * 8

    def __post_init__(self) -> None:
        if self.phases < 1:
            raise ValueError(f"wafer: a tree has one phase at least, not {self.phases}")
        most = int(self.cores**0.5)
        for name in ("decode_side", "prefill_side"):
            if not 2 <= getattr(self, name) <= most:
                raise ValueError(
                    f"wafer: {name} is from 2 to {most} of {self.cores} cores, not {getattr(self, name)}"
                )
        if not self.watts >= self.busy_watts:
            raise ValueError(
                f"wafer: its multipliers and memories alone draw {self.busy_watts:.0f} W, more than watts "
                f"({self.watts}); raise watts, or take a smaller process"
            )

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates per second of all cores."""
        return self.cores * self.core.lanes * self.mesh.hertz

    @property
    def busy_watts(self) -> float:
        """Dynamic power with every core multiplying."""
        return self.macs_per_second * self.core.mac_joules


class WaferLlm(Machine):
    """The modelled machine. reduction, shifting: how it sums and multiplies."""

    name = "waferllm"
    title = "WaferLLM on a Cerebras WSE-2"
    kind = "wafer"
    source = "WaferLLM, arXiv:2502.04563; OSDI 2025"
    note = (
        "single products of decoding are within a tenth of published measurements; decoding as a whole is "
        "about twice, prompts are four times as fast as published"
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
        return self._array(tokens * rows * columns).then(sums)

    def gemm(self, tokens: int, inputs: int, outputs: int) -> Work:
        """Matrix times matrix in rounds of moving tiles. Without the energy of multiplying."""
        side = self.figures.prefill_side
        m, k, n = -(-tokens // side), -(-inputs // side), -(-outputs // side)
        compute = self.core.cycles(m * k * n)
        left, right = self._words(m * k), self._words(k * n)
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
        softmaxes = self._arithmetic(softmax(rows) * (op.heads * side), op.heads * side // heads)
        array = self._array(rows * (width + values)).then(softmaxes)
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
        compute = self.core.cycles(m * width * k), self.core.cycles(m * values * k)
        cycles = self.mesh.multiply_transposed(
            side, compute[0], self._words(k * width), self._words(m * k), line, how
        ) + self.mesh.multiply(side, compute[1], self._words(m * k), self._words(k * values), how)
        moved = 2 * side * (keys * op.heads * (op.head_dim + op.v_dim) + queries * keys)
        rounds = self._rounds(cycles, side * sum(compute), moved)
        softmaxes = self._arithmetic(softmax(k) * (m * op.heads * side**2), side**2)
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
        tokens, sums = _sums_of(op)
        ways = [
            self._arithmetic(arithmetic, decode).then(self._sums(decode, tokens, 2 * decode * tokens) * sums),
            self._arithmetic(arithmetic, prefill**2).then(
                self._sums(prefill, -(-tokens // prefill), 2 * prefill * tokens) * sums
            ),
        ]
        return min(ways, key=_SECONDS)

    # --- cycles of parts ---

    def _words(self, elements: int) -> int:
        return self.mesh.words(elements * ELEMENT)

    def _array(self, macs: int) -> Work:
        """`macs` on the busiest core."""
        return Work.of("array", self.core.cycles(macs) / self.mesh.hertz)

    def _multiplying(self, macs: int) -> Work:
        """The energy of `macs` multiply-accumulates, wherever they run."""
        c = self.core
        return Work(0.0, {"array": 2 * macs * c.flop_joules, "sram": macs * PER_MAC * c.byte_joules})

    def _arithmetic(self, work: Arithmetic, cores: int) -> Work:
        """Additions and multiplications shared by `cores`. Others that do the same on copies of the same
        numbers draw well under a hundredth of the wafer's power, which is not counted."""
        operations = work.mul + work.add
        seconds = self.core.cycles(-(-operations // cores)) / self.mesh.hertz
        return Work.of("vector", seconds, operations * self.core.mac_joules)

    def _sums(self, cores: int, elements: int, moved: float) -> Work:
        """An all-reduce along lines of `cores` that hold `elements` each; moved: elements times hops in
        all."""
        f = self.figures
        cycles = self.mesh.all_reduce(cores, self._words(elements), self.reduction, f.phases)
        return Work.of("mesh", cycles / self.mesh.hertz, moved * ELEMENT * f.hop_joules)

    def _rounds(self, cycles: int, compute: int, moved: float) -> Work:
        """Rounds of `cycles` in all, of which `compute` were enough without a mesh."""
        joules = {"mesh": moved * ELEMENT * self.figures.hop_joules}
        return Work(cycles / self.mesh.hertz, joules, "array" if 2 * compute >= cycles else "mesh")


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
