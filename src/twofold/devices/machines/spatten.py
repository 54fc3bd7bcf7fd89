"""SpAtten: an accelerator of attention that prunes tokens and heads, with HBM2.

Source: "SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning" (HPCA 2021,
arXiv:2012.09852), and its hardware in github.com/mit-han-lab/spatten. Keys of a head go from HBM through a
converter of bit widths into an SRAM; an array of multipliers scores several of them in a cycle against a
query, others behind it weigh values; softmax and a top-k engine lie between. All stages are a pipeline: an op
takes what its busiest stage takes, and the pipeline's length. What is pruned is said by the ops of the
technique `spatten`; a plan without it is computed whole.

Everything on the chip has 12 bits: entries and weights of 4 to 16 are widened or rounded to that. Keys that
do not fit into the SRAM are read anew for every query. Linear layers are those of SpAtten-e2e: weights stream
from HBM past both arrays; what touches each activation a few times goes to a vector unit (assumed). Ops
follow each other: scores of one head do not overlap the ranking of another. Not charged: the ranking of
tokens and heads once a layer, which passes the top-k engine beside the ranking of values for each head; rows
of HBM that gathered keys leave half unread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from functools import cache

from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.dram import Dram
from twofold.devices.parts.energy import Process
from twofold.devices.parts.hbm import hbm, hbm_sources
from twofold.devices.parts.tiling import streamed
from twofold.devices.parts.topk import TopK
from twofold.devices.parts.vector_unit import EXP, VectorUnit
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Embedding, Linear, Op
from twofold.ops.base import DEVICE
from twofold.ops.pruned_attention import (
    PrunedAttention,
    RankedAttention,
    ScoreUpper,
    ScoreWhole,
    WeighValues,
)

PAPER = "arXiv:2012.09852"
RTL = "github.com/mit-han-lab/spatten, spatten_hardware/: "
_CHIP = Process(40)
_BITS = 12
_MUL = _CHIP.mul("int16") * (_BITS / 16) ** 2
_HOROWITZ = "parts/energy.py at 40 nm (the paper's node): "
_FORMATS = re.compile("(mx|nv)?int[2-8](-.*)?|q[2-8]_.*|bf16|f16|spatten")
_LANE_WIDTH = 64  # elements of a key: a lane of softmax for each key that is scored in a cycle

SOURCES = {
    "hertz": PAPER + ": 1 GHz",
    "multipliers": RTL + "hardware, SpAttenConfig.numMultipliers: 512 for scores, as many for values",
    "pipeline": RTL + "simulator/src/bert.cpp: SRAM, multiplier, adders, softmax of 87 cycles, and on",
    "sram_bytes": RTL + "hardware, SpAttenConfig: 256 lines of 512 numbers of 12 bits: 196 KB",
    "mac_joules": _HOROWITZ + "a 16-bit product scaled to 12 bits, a sum of 32",
    "sram_joules": _HOROWITZ + "an eighth of the memory, a bank for each of eight keys (assumption)",
    "softmax_joules": _HOROWITZ + "a Taylor polynomial, a sum and a division as a product, in fp32",
    "topk.lanes, topk.hertz": RTL + "run_spatten_hardware.py: topk_parallelism 16, at 1 GHz",
    "topk.joules": _HOROWITZ + "two comparisons (less, greater) of 16 bits",
    "vector": "assumption: eight fp32 multipliers and adders, as many as softmax has lanes",
    "hbm.shape.channels, hbm.timing.ccd": RTL + "hardware, SpAttenConfig: 16 channels of 256 bits at 1 GHz, "
    "512 GB/s (two stacks of 16 pseudo channels)",
    "hbm.shape.rows": RTL + "hardware/ramulator_config.yaml: 8 Gbit for each of 16 channels",
    **hbm_sources("hbm2"),
}


def channels(count: int) -> Dram:
    """`count` pseudo channels of HBM2 of 16 GB/s each."""
    two = hbm("hbm2", 2, bandwidth=512e9)
    return replace(two, shape=replace(two.shape, channels=count))


@dataclass(frozen=True, slots=True)
class SpattenFigures:
    """The machine. Defaults: SOURCES says where each comes from.

    multipliers: of scores, and as many of values; pipeline: cycles of its stages; sram_bytes: of keys, and as
    many of values; joules: of a multiply-accumulate, a byte in or out of SRAM, and a score's softmax.
    """

    hertz: float = 1e9
    multipliers: int = 512
    pipeline: int = 102
    sram_bytes: int = 196608
    mac_joules: float = _MUL + _CHIP.add("int32")
    sram_joules: float = _CHIP.sram_byte(196608 // 8)
    softmax_joules: float = (EXP.mul + 1) * _CHIP.mul("fp32") + (EXP.add + 1) * _CHIP.add("fp32")
    topk: TopK = field(default_factory=lambda: TopK(16, 1e9, 2 * _CHIP.add("int16")))
    vector: VectorUnit = field(
        default_factory=lambda: VectorUnit(8, 8, 1e9, 1, _CHIP.mul("fp32"), _CHIP.add("fp32"))
    )
    hbm: Dram = field(default_factory=lambda: channels(32))

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"spatten: {each.name} must be positive, not {value!r}")

    @property
    def softmax_lanes(self) -> int:
        """Scores that softmax takes in a cycle: one for each key of 64 elements that is scored in one."""
        return max(1, self.multipliers // _LANE_WIDTH)


EIGHTH = SpattenFigures(multipliers=64, hbm=channels(4))
"""With an eighth of its multipliers and channels, as it is compared with A3 and MNNFast."""


class Spatten(Machine):
    """The modelled machine. `figures`: its numbers."""

    name = "spatten"
    title = "SpAtten: pruned attention at 1 GHz with HBM2, and linear layers (e2e)"
    kind = "accelerator"
    source = f"SpAtten, HPCA 2021, {PAPER}"
    precisions = ("bf16", "fp16", "int8")
    sources = SOURCES
    more = (
        "hertz",
        "multipliers",
        "hbm.shape.channels",
        "vector.multipliers",
        "vector.adders",
        "vector.hertz",
    )

    figures: SpattenFigures

    def __init__(self, figures: SpattenFigures | None = None, *, tp: int = 1) -> None:
        f = figures or SpattenFigures()
        super().__init__(f, memory=f.hbm.shape.nbytes, idle_watts=f.hbm.standby_watts, tp=tp)
        self._filling = Work.of("array", f.pipeline / f.hertz)

    def peaks(self) -> Peaks:
        """Of both arrays; all that they multiply comes from HBM at least once."""
        f = self.figures
        rate = 2.0 * 2 * f.multipliers * f.hertz
        e = f.hbm.energy
        joules = e.read / f.hbm.shape.column_bytes + e.bus + e.activate / f.hbm.shape.row_bytes
        return Peaks(f.hbm.bus_bandwidth, dict.fromkeys(self.precisions, rate), joules, f.mac_joules / 2)

    # --- attention ---

    def attention(self, op: Attention) -> Work:
        """Whole, or the parts that cascade pruning leaves."""
        if type(op) not in (Attention, RankedAttention, ScoreUpper, ScoreWhole, WeighValues):
            raise self.refusal(op, "it prunes tokens and heads alone; plan technique spatten or none")
        self.check_precision(op)
        self._check(op, op.format or "f16")
        if op.totals.queries == 0 or op.totals.pairs == 0:
            return NOTHING
        match op:
            case WeighValues():
                stages = self._weigh_values(op)
            case PrunedAttention():
                keys = self._keys(op)
                stages = self._score(-(-op.scores // keys), keys, op.width)
            case _:
                stages = self._whole(op, op.totals.queries * op.heads, self._keys(op))
        return self._fetch(op.cache_bytes * self._passes(op)).beside(*stages).then(self._filling)

    def _whole(self, op: Attention, rows: int, keys: int) -> list[Work]:
        """All stages of attention for `rows` of queries and heads that each see `keys`."""
        return [*self._score(rows, keys, op.head_dim), self._multiply(rows, keys, op.v_dim)]

    def _score(self, rows: int, keys: int, width: int) -> list[Work]:
        """Scores, and their softmax."""
        f = self.figures
        cycles = rows * -(-keys // f.softmax_lanes)
        softmax = Work.of("vector", cycles / f.hertz, rows * keys * f.softmax_joules)
        return [self._multiply(rows, keys, width), softmax]

    def _weigh_values(self, op: WeighValues) -> list[Work]:
        """The likeliest entries of each row, and their values."""
        rows = op.totals.queries * op.alive
        kept = -(-op.scores // rows)
        ranking = self.figures.topk.work(self._keys(op), kept, rows)
        return [self._multiply(rows, kept, op.width), ranking]

    def _multiply(self, rows: int, keys: int, width: int) -> Work:
        """One array: entries of `width` lie in SRAM as 12-bit numbers."""
        f = self.figures
        macs = rows * keys * width
        seconds = rows * -(-keys * width // f.multipliers) / f.hertz
        joules = {"array": macs * f.mac_joules, "sram": macs * _BITS / 8 * f.sram_joules}
        return Work(seconds, joules, {"array": seconds})

    @staticmethod
    def _keys(op: Attention) -> int:
        """That a query sees on average."""
        return -(-op.totals.pairs // op.totals.queries)

    def _passes(self, op: Attention) -> int:
        """How often a sequence's keys and values are read: once where the SRAM holds those of a head."""
        t = op.totals
        nbytes = -(-t.keys // t.num_seqs) * max(op.head_dim, op.v_dim) * _BITS / 8
        return 1 if nbytes <= self.figures.sram_bytes else -(-t.queries // t.num_seqs)

    # --- everything else ---

    def linear(self, op: Linear) -> Work:
        """Weights stream past both arrays; activations that their SRAM does not hold pass more than once."""
        if type(op) is not Linear:
            raise self.refusal(op, "it multiplies dense weights; drop the technique that emits this op")
        self.check_precision(op)
        self._check(op, op.format)
        f = self.figures
        inputs, outputs = (op.tokens * width * _BITS / 8 for width in (op.in_features, op.out_features))
        room = f.sram_bytes  # of one of both memories for each operand
        read = streamed(op.weight_bytes, inputs, held=room, weights_room=room, inputs_room=room)
        moved = read + (outputs if outputs > room else 0)
        macs = op.tokens * op.in_features * op.out_features // op.groups
        array = Work.of("array", macs / (2 * f.multipliers) / f.hertz, macs * f.mac_joules)
        sram = Work.of("sram", 0.0, macs * _BITS / 8 * f.sram_joules)
        return array.beside(sram).beside(self._fetch(moved))

    def cache_write(self, op: CacheWrite) -> Work:
        """New entries, in as many bits as the cache has."""
        self._check(op, op.format or "f16")
        return self.figures.hbm.store(op.cache_bytes)

    def embedding(self, op: Embedding) -> Work:
        """Rows of the tables, and their sum."""
        return self._fetch(op.tokens * op.tables * op.row_bytes).then(self.elementwise(op))

    def elementwise(self, op: Op) -> Work:
        """In the vector unit; activations that the SRAMs do not hold come from HBM and go back."""
        arithmetic, f, moved = arithmetic_of(op), self.figures, op.cost().bytes_moved
        assert arithmetic is not None
        work = f.vector.run(arithmetic).beside(Work(0.0, {"sram": moved * f.sram_joules}))
        return work.beside(self._fetch(moved)) if moved > 2 * f.sram_bytes else work

    def _fetch(self, nbytes: float) -> Work:
        """Through the crossbar, which spreads reads over all channels."""
        return self.figures.hbm.stream(nbytes)

    def _check(self, op: Linear | Attention | CacheWrite, name: str) -> None:
        if op.space != DEVICE:
            raise self.refusal(op, f"its HBM holds weights and cache, not {op.space} memory")
        if not _takes(name):
            raise self.refusal(
                op, f"it converts integers and 16 bits to 12, not {name}; use int8, f16 or bf16"
            )


@cache
def _takes(name: str) -> bool:
    """Whether the converter of bit widths knows that format."""
    return _FORMATS.fullmatch(name) is not None


MACHINE = Spatten
