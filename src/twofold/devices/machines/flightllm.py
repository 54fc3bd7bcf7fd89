"""FlightLLM: an LLM accelerator in an FPGA with HBM (Alveo U280).

Source: "FlightLLM: Efficient Large Language Model Inference with a Complete Mapping Flow on FPGAs" (FPGA
2024, arXiv:2401.03868); its published artefact has the parallelism, the instructions and what each takes.
Every core (one for a super logic region) has a matrix engine of chains of DSP48, whose buffer eight HBM
channels fill:

- a matrix times many tokens (MM) goes over tiles of 128 tokens and 16 outputs with all multipliers; - a
matrix times one token (MV) over 512 outputs, as fast as the buffer yields weights, a quarter of that.

The faster of both is taken. Integer weights of fewer bits are widened to 8 on their way in; where the plan
multiplies 16-bit numbers, the buffer yields half as many, and a DSP48 multiplies one pair instead of two
(assumed: the source multiplies int8 alone). A sparse matrix is stored and multiplied by blocks that keep 2,
4, 8 or 16 of 16 weights. Activations stay on the chip as long as their buffer holds them, and do while tokens
are generated. Softmax and norms pass a vector twice, in a unit of their own; softmax is hidden behind
products.

Not here: the DDR beside the HBM, which holds instructions and tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.hbm import OCONNOR, PINS, POST_GSA, PRE_GSA, ROW_JOULES
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Embedding, Linear, Op, SparseLinear
from twofold.ops.base import DEVICE
from twofold.ops.elementwise import Activate, AddNorm, Gather, Norm, RotaryQKV, SigmoidGate, Softcap
from twofold.ops.sparse_attention import EstimateAttention, SparseAttention

PAPER = "arXiv:2401.03868"
ARTEFACT = "github.com/FlightLLM/flightllm_test_demo @4a96251, profile/"
_CONFIG = ARTEFACT + "config.yaml: "

SOURCES = {
    "cores": PAPER + ": one for each of the U280's super logic regions",
    "hertz": _CONFIG + "CLOCK_FREQ_MHZ",
    "mm_tokens, mm_outputs, depth": _CONFIG + "MM_PARALLEL_M, MM_PARALLEL_N, MM_PARALLEL_K",
    "mv_outputs": _CONFIG + "MV_PARALLEL_N",
    "mm_start, mv_start": _CONFIG + "MM_START_N_NUM, MV_START_N_NUM: outputs of one instruction",
    "key_align": ARTEFACT + "run.py: lengths are compiled in steps of 16 tokens",
    "lanes": _CONFIG + "SOFTMAX_PARALLEL_K and its like",
    "buffer_bytes": _CONFIG + "GLOBAL_BUFFER_*: 512 rows of 16 banks of 16 bytes for 8 channels",
    "channels": _CONFIG + "A_BUFFER_HBM_CHANNEL_NUM: of a core",
    "channel_bandwidth": "AMD UG1393 (Vitis), on the U280's HBM: 460 GB/s over 32 channels",
    "channel_efficiency": _CONFIG + "HBM_BW_SAME_CHANNEL_EFFICIENCY",
    "core_efficiency": ARTEFACT + "inst_gen/inst_profiler.py: four cores take 1 / 3.2 of the time of one",
    "hbm_joules": OCONNOR,
    "static_watts": PAPER + ", as later studies quote it (arXiv:2407.21325): 45 W in all with HBM, less what "
    "HBM draws for 193 GB/s",
    "memory_bytes": "AMD UG1393 (Vitis), on the U280's HBM: 8 GB",
}

_WIDENED = re.compile("(mx|nv)?int[2-8](-.*)?|q[2-8]_.*|bf16|f16")
"""Formats of weights and cache that it takes."""

_KEPT = (2, 4, 8, 16)
"""Weights that a block keeps of 16 neighbours."""


@dataclass(frozen=True, slots=True)
class FlightLlmFigures:
    """The machine. Defaults: SOURCES says where each comes from.

    mm_tokens, mm_outputs, mv_outputs, depth: what a core multiplies in a cycle, tokens x outputs x inputs
    (MV: one token); mm_start, mv_start: outputs that are computed together; key_align: step in which contexts
    are padded; lanes: elements of a vector in a cycle; buffer_bytes: of a core's activations; channels, their
    bandwidth (bytes/s) and the share of it that streams reach; core_efficiency: of cores side by side.
    """

    cores: int = 3
    hertz: float = 225e6
    mm_tokens: int = 128
    mm_outputs: int = 2
    mv_outputs: int = 64
    depth: int = 16
    mm_start: int = 16
    mv_start: int = 512
    key_align: int = 16
    lanes: int = 16
    buffer_bytes: int = 1 << 20
    channels: int = 8
    channel_bandwidth: float = 460e9 / 32
    channel_efficiency: float = 0.7
    core_efficiency: float = 0.8
    hbm_joules: float = PRE_GSA + POST_GSA + PINS + ROW_JOULES / 1024
    static_watts: float = 39.5
    memory_bytes: int = 8 << 30

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"flightllm: {name} must be positive, not {getattr(self, name)!r}")
        for name in ("channel_efficiency", "core_efficiency"):
            if getattr(self, name) > 1:
                raise ValueError(f"flightllm: {name} is a share, at most 1, not {getattr(self, name)!r}")

    @property
    def bandwidth(self) -> float:
        """Bytes/s that all cores' channels stream together."""
        peak = self.cores * self.channels * self.channel_bandwidth
        return peak * self.channel_efficiency * self.core_efficiency


class FlightLlm(Machine):
    """The modelled machine. `figures`: its numbers."""

    name = "flightllm"
    title = "FlightLLM on an Alveo U280: chains of DSP48 with HBM"
    kind = "fpga"
    source = "FlightLLM, FPGA 2024, arXiv:2401.03868"
    note = "its prompts and tokens take within 8 % of what the source's artefact prints for the VHK158"
    precisions = ("bf16", "fp16", "int8")
    sources = SOURCES
    more = ("cores", "hertz", "lanes", "channels", "channel_bandwidth")
    default: ClassVar[FlightLlmFigures] = FlightLlmFigures()

    figures: FlightLlmFigures

    def __init__(self, figures: FlightLlmFigures | None = None, *, tp: int = 1) -> None:
        f = figures or self.default
        super().__init__(f, memory=f.memory_bytes, idle_watts=f.static_watts, tp=tp)

    def peaks(self) -> Peaks:
        """Of all DSPs, and of all channels that feed them."""
        f = self.figures
        int8 = 2.0 * f.cores * f.mm_tokens * f.mm_outputs * f.depth * f.hertz
        streams = f.cores * f.channels * f.channel_bandwidth
        return Peaks(streams, {"int8": int8, "bf16": int8 / 2, "fp16": int8 / 2}, f.hbm_joules)

    # --- what an op takes ---

    def linear(self, op: Linear) -> Work:
        """Outputs are shared by the cores; weights stream past."""
        if type(op) not in (Linear, SparseLinear):
            raise self.refusal(op, "its engine multiplies weights by activations; use dense or N:M weights")
        self.check_precision(op)
        self._check_space(op)
        self._check_format(op, op.format)
        f = self.figures
        outputs = -(-op.out_features // op.groups // f.cores)
        cycles = self._cycles(op.tokens, op.in_features // op.groups, outputs) * op.groups
        if isinstance(op, SparseLinear):
            share = 16 * op.kept / (op.in_features * op.out_features)
            cycles *= next(kept for kept in _KEPT if kept >= min(share, 16)) / 16
        return self._products(op, cycles).beside(self._move(op.weight_bytes + self._spilled(op)))

    def attention(self, op: Attention) -> Work:
        """Heads are shared by the cores, each of which takes its sequences one after the other."""
        if type(op) not in (Attention, SparseAttention, EstimateAttention):
            raise self.refusal(op, "it attends to all entries or to blocks of them; use dense attention")
        self.check_precision(op)
        self._check_space(op)
        if op.format:
            self._check_format(op, op.format)
        f, t = self.figures, op.totals
        if t.queries == 0 or t.pairs == 0:
            return NOTHING
        queries = -(-t.queries // t.num_seqs)
        keys = -(-t.pairs // t.queries)
        keys = -(-keys // f.key_align) * f.key_align
        cycles = self._cycles(queries, op.head_dim, keys)
        if op.v_dim:
            cycles += self._cycles(queries, keys, op.v_dim)
        cycles *= -(-op.heads * t.num_seqs // f.cores)
        softmax = self._vector(2 * t.pairs * op.heads)
        return self._products(op, cycles).beside(softmax).beside(self._move(op.cache_bytes))

    def cache_write(self, op: CacheWrite) -> Work:
        """New entries, rounded on the way where the cache has fewer bits."""
        self._check_space(op)
        return self._move(op.cache_bytes)

    def embedding(self, op: Embedding) -> Work:
        """Rows of the tables, and their sum."""
        rows = self._move(op.tokens * op.tables * op.row_bytes)
        return rows.then(self._vector((op.tables - 1) * op.tokens * op.width))

    def elementwise(self, op: Op) -> Work:
        """In the vector unit: as many passes over the elements as there are operations on a vector. Elements
        that the buffers on the chip do not hold come from HBM and go back."""
        moved, room = op.cost().bytes_moved, self.figures.cores * self.figures.buffer_bytes
        work = self._vector(_passes(op))
        return work.beside(self._move(moved)) if moved > room else work

    # --- parts ---

    def _cycles(self, tokens: int, inputs: int, outputs: int) -> float:
        """Of a core for [tokens, inputs] times [inputs, outputs] in int8."""
        f = self.figures
        deep = -(-inputs // f.depth)
        one = tokens * -(-outputs // f.mv_start) * -(-f.mv_start // f.mv_outputs)
        many = -(-tokens // f.mm_tokens) * -(-outputs // f.mm_start) * -(-f.mm_start // f.mm_outputs)
        return float(min(one, many) * deep)

    def _products(self, op: Linear | Attention, cycles: float) -> Work:
        f = self.figures
        halves = 1 if op.compute == "int8" else 2
        return Work.of("array", cycles * halves / (f.hertz * f.core_efficiency))

    def _vector(self, elements: float) -> Work:
        f = self.figures
        return Work.of("vector", elements / (f.lanes * f.cores * f.hertz * f.core_efficiency))

    def _move(self, nbytes: float) -> Work:
        return Work.of("dram", nbytes / self.figures.bandwidth, nbytes * self.figures.hbm_joules)

    def _spilled(self, op: Linear) -> int:
        """Bytes of activations, where the buffers on the chip do not hold them."""
        nbytes = op.tokens * (op.in_features + op.out_features) * (1 if op.compute == "int8" else 2)
        return nbytes if nbytes > self.figures.cores * self.figures.buffer_bytes else 0

    # --- what it refuses ---

    def _check_space(self, op: Linear | Attention | CacheWrite) -> None:
        if op.space != DEVICE:
            raise self.refusal(op, f"its HBM holds weights and cache, not {op.space} memory")

    def _check_format(self, op: Linear | Attention, name: str) -> None:
        """Integers of up to 8 bits are widened, 16 bits are taken as they are."""
        if not _WIDENED.fullmatch(name):
            raise self.refusal(
                op, f"it widens integers of up to 8 bits, not {name}; store them as mxint4, int8 or bf16"
            )


def _passes(op: Op) -> float:
    """Elements that go through the vector unit, counted once for each pass."""
    match op:
        case Gather():
            return 0.0
        case Norm():
            return 2.0 * op.tokens * op.width
        case AddNorm():
            return 3.0 * op.tokens * op.width
        case Activate():
            return (2.0 if op.gated else 1.0) * op.tokens * op.width
        case RotaryQKV():
            # By the cosine, by the sine, and the sum; a norm per head before where the model has one.
            each = 3.0 * op.rotated + (2.0 * op.head_dim if op.qk_norm else 0.0)
            return op.tokens * (op.heads + op.kv_heads) * each
        case SigmoidGate():
            return op.tokens * (op.width + 1.0)
        case Softcap():
            return 3.0 * op.rows * op.vocab
    return op.cost().vector_flop


MACHINE = FlightLlm
