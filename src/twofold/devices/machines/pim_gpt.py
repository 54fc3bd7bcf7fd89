"""PIM-GPT: GDDR6 whose banks multiply, and a small ASIC that does everything else.

Source: Wu, Wang, Lu, "PIM-GPT: a hybrid process-in-memory accelerator for autoregressive transformers"
(arXiv:2310.09385; npj Unconventional Computing, 2024). Matrices and the KV cache live in the banks and are
multiplied there, one vector at a time; only vectors travel. So every token repeats the products: batches and
prompts gain nothing on this machine.

Not validated by measurement: no such machine exists. Where the paper's text gives no figure that could be
checked, the DRAM is SK hynix's GDDR6-AiM as the AiM simulator of CENT (Gu et al., ASPLOS 2025) configures it;
each figure says which.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.bank_mac import MacStream, matrix_streams, run
from twofold.devices.parts.dram import NS, Dram, DramEnergy, DramShape, DramTiming, DramWork
from twofold.devices.parts.vector_unit import ADD, VectorUnit, softmax
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Embedding, Gather, Linear, Op

_ELEMENT = 2  # bytes of a bfloat16

PAPER = "arXiv:2310.09385, hardware configuration, as quoted by a later study of baselines"
AIM = "github.com/arkhadem/aim_simulator @0f28a07, GDDR6_AiM_org and GDDR6_AiM_timing (tCK 0.5 ns)"
AIM_POWER = (
    "github.com/arkhadem/aim_simulator @0f28a07, scripts/cellar_power_calculator.py (figures per channel)"
)
DRAMSIM = "github.com/hplp/DRAMsim3 @243602b, configs/GDDR6_8Gb_x16.ini: (IDD5AB - IDD3N) * VDD * tRFC"

SOURCES = {
    "shape.channels, shape.banks": PAPER + ": 8 channels of 16 banks",
    "shape.rows, shape.row_bytes": AIM + ": 16 Ki rows of 2 KiB in each of 16 banks, 4 Gbit a channel",
    "shape.column_bytes": PAPER + ": 16 bfloat16 multipliers per bank",
    "timing": AIM + ": partly from profiling AiM hardware; a column per 1 ns is also the paper's 1 GHz",
    "energy.activate": AIM_POWER + ": 66.3 mW over a row cycle of 44.5 ns",
    "energy.read, energy.write": AIM_POWER + ": 438.15 and 553.15 mW over a burst of 1.25 ns",
    "energy.mac": AIM_POWER + ": three times the read power for 1 ns; mac_watts come on top",
    "energy.bus": AIM_POWER + ": 5.5 pJ per bit",
    "energy.standby, energy.active": AIM_POWER + ": 183.15 and 263.75 mW",
    "energy.refresh": DRAMSIM,
    "mac_watts, asic_watts": PAPER + ": 149.29 mW per channel, 304.59 mW",
    "buffer_bytes": "assumption: the buffer holds as much of the input as a row holds of the matrix",
    "asic.hertz": PAPER + ": 1 GHz",
    "asic.multipliers, asic.adders, asic.latency": "assumption: no unit counts found; half or twice as "
    "many move a GPT's token by less than 10 %",
    "asic.mul_joules, asic.add_joules": "none: they are in asic_watts",
}
"""Where each figure of `PimGptFigures` comes from."""


@dataclass(frozen=True, slots=True)
class PimGptFigures:
    """The machine. Defaults: SOURCES says where each comes from.

    mac_watts: power of one channel's multipliers while they run; buffer_bytes: input vector held per channel;
    asic: its arithmetic; asic_watts: its power, always on.
    """

    shape: DramShape = field(default_factory=lambda: DramShape(8, 16, 16384, 2048, 32))
    timing: DramTiming = field(
        default_factory=lambda: DramTiming(
            rcd_read=18 * NS,
            rcd_write=14 * NS,
            rcd_mac=28 * NS,
            rp=16 * NS,
            ras=27 * NS,
            rc=44.5 * NS,
            ccd=1 * NS,
            ccd_mac=1 * NS,
            rtp=6 * NS,
            wr=16.5 * NS,
            cl=25 * NS,
            cwl=3 * NS,
            rrd=5.5 * NS,
            faw=21 * NS,
            rfc=105 * NS,
            refi=1666.5 * NS,
        )
    )
    energy: DramEnergy = field(
        default_factory=lambda: DramEnergy(
            activate=66.3e-3 * 44.5 * NS,
            read=438.15e-3 * 1.25 * NS,
            write=553.15e-3 * 1.25 * NS,
            mac=3 * 438.15e-3 * 1 * NS,
            bus=8 * 5.5e-12,
            refresh=(286e-3 - 61e-3) * 1.35 * 126 * 0.66 * NS,
            standby=183.15e-3,
            active=263.75e-3,
        )
    )
    mac_watts: float = 149.29e-3
    buffer_bytes: int = 2048
    asic: VectorUnit = field(
        default_factory=lambda: VectorUnit(multipliers=128, adders=256, hertz=1e9, latency=2)
    )
    asic_watts: float = 304.59e-3

    def __post_init__(self) -> None:
        if self.buffer_bytes < self.shape.column_bytes or self.buffer_bytes % self.shape.column_bytes:
            raise ValueError(
                f"pim-gpt: buffer_bytes ({self.buffer_bytes}) must be a multiple of a column "
                f"({self.shape.column_bytes} bytes)"
            )
        for name in ("mac_watts", "asic_watts"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"pim-gpt: {name} must not be negative, not {getattr(self, name)!r}")


class PimGpt(Machine):
    """The modelled machine. `figures`: its numbers; `dram`: the memory they describe."""

    name = "pim-gpt"
    title = "PIM-GPT: GDDR6 with multipliers in its banks, and an ASIC"
    kind = "pim"
    source = "PIM-GPT, arXiv:2310.09385; npj Unconventional Computing (2024)"
    note = (
        "not validated by measurement; reading in the banks takes a fifth of published energies of HBM arrays"
    )
    sources = SOURCES
    more = ("shape.channels", "asic.multipliers", "asic.adders", "asic.hertz")

    figures: PimGptFigures

    def __init__(self, figures: PimGptFigures | None = None, *, tp: int = 1) -> None:
        f = figures or PimGptFigures()
        self.dram = Dram(f.shape, f.timing, f.energy)
        watts = self.dram.standby_watts + f.asic_watts
        super().__init__(f, memory=f.shape.nbytes, idle_watts=watts, tp=tp)

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates per second of all banks, rows being open."""
        return self.dram.bank_bandwidth / _ELEMENT

    def peaks(self) -> Peaks:
        """Of the banks: every column is read and multiplied at once."""
        f = self.figures
        joules = f.energy.mac / (f.shape.banks * f.shape.column_bytes)
        return Peaks(self.dram.bank_bandwidth, {"bf16": 2 * self.macs_per_second}, joules)

    # --- what an op takes ---

    def work(self, op: Op) -> Work:
        """See `Machine.work`."""
        if (act_bytes := getattr(op, "act_bytes", _ELEMENT)) != _ELEMENT:
            raise self.refusal(
                op, f"it computes on activations of 2 bytes, not {act_bytes}; plan with precision bf16"
            )
        return super().work(op)

    def elementwise(self, op: Op) -> Work:
        """On the ASIC, one token after the other. Rows that want no logits are not sent on."""
        if isinstance(op, Gather):
            return NOTHING
        arithmetic = arithmetic_of(op)
        assert arithmetic is not None
        return self.figures.asic.run(arithmetic)

    def embedding(self, op: Embedding) -> Work:
        """A row of each table, and their sum."""
        rows = self._banks(self.dram.read_row(op.row_bytes) * (op.tokens * op.tables))
        return rows.then(self.elementwise(op)) if op.tables > 1 else rows

    def linear(self, op: Linear) -> Work:
        """In the banks, token by token; the ASIC adds up the partial sums of the pieces, and the bias."""
        if op.format != "bf16":
            raise self.refusal(
                op, f"it cannot widen {op.format} weights in the banks; store the weights as bf16"
            )
        if op.space != "device":
            raise self.refusal(op, f"weights are multiplied in its banks, not in {op.space} memory")
        outputs, inputs = op.out_features // op.groups, op.in_features // op.groups
        streams = matrix_streams(self.dram, outputs, inputs, _ELEMENT, self.figures.buffer_bytes)
        work = run(self.dram, streams) * (op.groups * op.tokens)
        sums = ADD * (op.out_features * len(streams))
        return self._banks(work).then(self.figures.asic.run(sums) * op.tokens)

    def attention(self, op: Attention) -> Work:
        """Scores and values in the banks, the softmax on the ASIC."""
        if type(op) is not Attention or op.widen_flop or op.space != "device":
            raise self.refusal(
                op,
                "the whole cache is multiplied where it lies, as bfloat16; keep a dense cache in device "
                "memory",
            )
        t = op.totals
        if t.queries == 0:
            return NOTHING
        keys = -(-t.pairs // t.queries)
        streams = [*self._score_streams(op, keys), *self._value_streams(op, keys)]
        asic = self.figures.asic.run(softmax(keys) * op.heads) * t.queries
        return self._banks(run(self.dram, streams) * t.queries).then(asic)

    def cache_write(self, op: CacheWrite) -> Work:
        """Half of the width is keys: one burst into a row. The other half is values: one masked column each,
        no row hits."""
        if op.pack_flop or op.space != "device" or op.cache_bytes != op.tokens * op.width * _ELEMENT:
            raise self.refusal(op, "its banks store keys and values as bfloat16; keep a dense cache there")
        keys = self.dram.write_row(op.width // 2 * _ELEMENT)
        values = self.dram.scatter(-(-(op.width // 2) // self.figures.shape.all_banks))
        return self._banks((keys + values) * op.tokens)

    def _banks(self, work: DramWork) -> Work:
        multiplying = work.macs * self.figures.timing.ccd_mac * self.figures.mac_watts
        return Work.of("in-bank", work.seconds, self.dram.joules(work) + multiplying)

    def _score_streams(self, op: Attention, keys: int) -> list[MacStream]:
        """q k^T: a token's keys of all heads lie together in one bank, tokens are dealt out over the
        banks."""
        s = self.figures.shape
        tokens_per_bank = -(-keys // s.all_banks)
        per_head = self.dram.columns_of(op.head_dim * _ELEMENT)
        group = op.heads // op.kv_heads
        # Query heads that fit into the buffer at once, in whole groups.
        at_once = max(1, self.figures.buffer_bytes // (per_head * s.column_bytes * group))
        streams = []
        for start in range(0, op.kv_heads, at_once):
            heads = min(at_once, op.kv_heads - start)
            streams.append(
                MacStream(tokens_per_bank * heads, per_head, fill=heads * group * per_head, reuse=group)
            )
        return streams

    def _value_streams(self, op: Attention, keys: int) -> list[MacStream]:
        """s v: values are stored per dimension, so that one row of a bank holds one dimension over the
        tokens.

        Each channel takes heads of its own, since its buffer holds one head's scores at a time.
        """
        s = self.figures.shape
        rounds = -(-op.kv_heads // s.channels)
        outputs = -(-op.v_dim // s.banks)
        group = op.heads // op.kv_heads
        streams = []
        piece = self.figures.buffer_bytes // _ELEMENT
        for start in range(0, keys, piece):
            columns = self.dram.columns_of(min(piece, keys - start) * _ELEMENT)
            streams += [MacStream(outputs, columns, fill=columns, packed=False)] * (rounds * group)
        return streams


MACHINE = PimGpt
