"""Duplex: a GPU whose HBM has processing units on its logic dies, for layers of few operations per byte.

Source: Yun et al., "Duplex: a device for large language models with mixture of experts, grouped query
attention, and continuous batching" (MICRO 2024, arXiv:2409.01141). More through-silicon vias let a stack's
logic die read eight banks of a channel at once, at four times the bandwidth of the pins; its units are made
for eight operations per byte. The GPU (xPU) takes prompts and dense layers, Logic-PIM the attention of single
queries; both work at the same time on different experts (those of few tokens on Logic-PIM) and on different
requests' attention, since they reach different bundles of banks.

The xPU is the catalogue's H100 with its measured efficiencies, on both sides of every comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import ClassVar

from twofold.devices.efficiency.kernels import Kernels
from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.dram import Dram
from twofold.devices.parts.energy import Process
from twofold.devices.parts.gpu import Gpu
from twofold.devices.parts.hbm import hbm, hbm_sources
from twofold.devices.parts.logic_die import LogicDie
from twofold.devices.parts.work import NOTHING, Work
from twofold.ops import Attention, CacheWrite, Collective, Embedding, ExpertMLP, Linear, Op
from twofold.ops.attention import SpanTotals

XPU = "h100-sxm"
FORMATS = ("bf16", "f16")
PAPER = "arXiv:2409.01141, section VI and VII-E: "
SIMULATOR = (
    "the authors' simulator, as github.com/HeliosZhou/LLMSimulator @e0b41ec has it, src/dram/power.h: "
)
SOURCES = {
    **hbm_sources("hbm3", "pins"),
    "pins.shape.channels, pins.shape.rows, pins.timing.ccd, pins.timing.ccd_mac": PAPER
    + "five stacks of an H100; a column per tCCD_S at its 3,352 GB/s, and per tCCD_L = 2 tCCD_S of a bundle",
    "logic.stacks": PAPER + "80 GB a device, 16 GB a stack",
    "logic.bundle": PAPER + "eight of the 16 banks of a rank and pseudo channel",
    "logic.macs, logic.hertz": PAPER + "32 modules of 512 fp16 units at 650 MHz, 21.3 TFLOP/s a stack",
    "logic.mac_joules": SIMULATOR + "0.46 pJ for two operations",
    "logic.read_joules": SIMULATOR + "0.464 nJ for 32 bytes that do not reach the pins",
    "logic.buffer_joules": "Horowitz (ISSCC 2014), 1 MiB, scaled to the paper's 7 nm",
}
"""Where each figure of `DuplexFigures` comes from."""


@dataclass(frozen=True, slots=True)
class DuplexFigures:
    """pins: the memory as the xPU sees it; logic: the units on its logic dies."""

    pins: Dram = field(default_factory=lambda: hbm("hbm3", 5, bandwidth=3352e9))
    logic: LogicDie = field(
        default_factory=lambda: LogicDie(
            stacks=5,
            bundle=8,
            macs=32 * 512,
            hertz=650e6,
            mac_joules=0.46e-12,
            read_joules=0.464e-9 / 32,
            buffer_joules=Process(7).sram_byte(1 << 20),
        )
    )


class Duplex(Machine):
    """The modelled machine. `figures`: its numbers; `xpu`: the GPU that it is built around, whose memory
    bandwidth is the GPU's own, whatever `figures.pins` has."""

    name = "duplex"
    title = "Duplex: an H100 with processing units on the logic dies of its HBM"
    kind = "gpu+pim"
    source = "Duplex, arXiv:2409.01141; MICRO 2024"
    precisions = ("bf16", "fp16")
    sources = SOURCES
    more: ClassVar[tuple[str, ...]] = ("pins.shape.channels",)
    most = 8

    figures: DuplexFigures

    def __init__(self, figures: DuplexFigures | None = None, *, tp: int = 1) -> None:
        f = figures or DuplexFigures()
        self.xpu = Gpu(XPU, tp)
        self.view = f.logic.view(f.pins)
        rank = self.xpu.rank
        link = next((group.inner for group in rank.groups.values()), None)
        super().__init__(
            f,
            memory=rank.memory["device"],
            idle_watts=rank.file.power.idle.value,
            tp=tp,
            link=link,
            step_overhead=rank.step_overhead,
        )

    def peaks(self) -> Peaks:
        """Of both together: they work at the same time."""
        f, matmul = self.figures, self.xpu.rank.file.matmul
        logic = 2 * f.logic.macs_per_second
        return Peaks(
            self.view.bus_bandwidth + self.xpu.rank.file.memory.bandwidth.value,
            {p: matmul[p].value + logic for p in self.precisions},
            f.logic.read_joules,
            f.logic.mac_joules / 2,
        )

    def use(self, kernels: Kernels) -> None:
        """The xPU runs a software's kernels."""
        self.xpu.rank.use(kernels)
        self.forget_charges()

    # --- attention ---

    def attention(self, op: Attention) -> Work:
        """Prompts on the xPU and, at the same time, single queries on Logic-PIM; single queries alone where
        they are faster. Only a dense cache of 16 bits is multiplied on the logic dies."""
        t = op.totals
        plain = type(op) is Attention and op.compute in self.precisions and op.space == "device"
        if not plain or op.widen_flop or op.format or not t.singles:
            return self.xpu.work(op)
        singles = SpanTotals(
            t.singles,
            t.singles,
            t.single_keys,
            t.single_keys,
            min(t.max_keys, t.single_keys),
            t.singles,
            t.single_keys,
        )
        share = op.cache_bytes * t.single_keys // max(1, t.keys)
        decode = replace(op, totals=singles, cache_bytes=share)
        single = self._decode(decode)
        if t.singles == t.queries:
            return min(self._together(single, NOTHING), self.xpu.work(op), key=lambda work: work.seconds)
        keys = t.keys - t.single_keys
        prompts = SpanTotals(
            t.num_seqs - t.singles,
            t.queries - t.singles,
            keys,
            t.pairs - t.single_keys,
            min(t.max_keys, keys),
            0,
            0,
        )
        many = self.xpu.work(replace(op, totals=prompts, cache_bytes=op.cache_bytes - share))
        return self._together(single, many)

    def _decode(self, op: Attention) -> Work:
        """Heads of requests dealt out to the stacks, of which the busiest is waited for. The softmax modules
        are taken to keep pace."""
        logic, t = self.figures.logic, op.totals
        macs = t.pairs * op.heads * (op.head_dim + op.v_dim)
        acts = t.queries * op.heads * (op.head_dim + op.v_dim) + 2 * t.pairs * op.heads
        work = logic.multiply(self.view, op.cache_bytes, macs, op.cache_bytes + acts * op.act_bytes)
        units = op.kv_heads * t.singles
        waited = work * (-(-units // logic.stacks) * logic.stacks / units)
        return waited._replace(joules=work.joules)

    # --- experts ---

    def experts(self, op: ExpertMLP) -> Work:
        """Experts of the fewest tokens on Logic-PIM, the others on the xPU at the same time, as many each as
        finish first; the xPU then adds up what the stacks have of each token."""
        if op.compute not in self.precisions or op.space != "device" or op.format not in FORMATS:
            return self.xpu.work(op)
        tokens = expert_tokens(op.pairs, max(1, round(op.touched)))
        scale = op.touched / len(tokens)
        best, logic = self._split(op, tokens, NOTHING, 0, scale), NOTHING
        for few in range(1, len(tokens) + 1):
            logic = logic.then(self._expert(op, tokens[few - 1]) * scale)
            split = self._split(op, tokens, logic, few, scale)
            if split.seconds < best.seconds:
                best = split
        return best

    def _split(self, op: ExpertMLP, tokens: list[float], logic: Work, few: int, scale: float) -> Work:
        """All experts, the first `few` of which take `logic`."""
        many, rest = len(tokens) - few, round(sum(tokens[few:]))
        xpu = self.xpu.work(replace(op, pairs=max(1, rest), touched=many * scale)) if many else self._rank()
        if not few:
            return xpu
        sums = self.figures.logic.stacks * sum(tokens[:few]) * op.hidden * op.act_bytes
        return self._together(logic, xpu).then(self.figures.pins.stream(sums))

    def _rank(self) -> Work:
        """The xPU ranks the tokens by expert, whoever multiplies them."""
        return Work.of("host", self.xpu.rank.products.dispatch)

    def _expert(self, op: ExpertMLP, tokens: float) -> Work:
        """One expert on Logic-PIM, cut over all stacks."""
        weights = op.hidden * op.ffn * op.matrices
        acts = tokens * (op.hidden + op.matrices * op.ffn) * op.act_bytes
        return self.figures.logic.multiply(
            self.view, op.expert_bytes, weights * tokens, op.expert_bytes + acts
        )

    def _together(self, logic: Work, xpu: Work) -> Work:
        """Both at the same time. Where the xPU is done first, it waits."""
        waiting = self.xpu.waits(max(0.0, logic.seconds - xpu.seconds))
        return xpu.beside(logic).beside(waiting)

    # --- what is the xPU's ---

    def linear(self, op: Linear) -> Work:
        """On the xPU, where the batch is multiplied at once."""
        return self.xpu.work(op)

    def cache_write(self, op: CacheWrite) -> Work:
        """By the xPU."""
        return self.xpu.work(op)

    def embedding(self, op: Embedding) -> Work:
        """By the xPU."""
        return self.xpu.work(op)

    def elementwise(self, op: Op) -> Work:
        """By the xPU."""
        return self.xpu.work(op)

    def collective(self, op: Collective) -> Work:
        """Among xPUs."""
        return self.xpu.work(op)


def expert_tokens(pairs: int, experts: int) -> list[float]:
    """Tokens of each of `experts` that `pairs` (token, expert) choices reach, ascending: quantiles of a
    normal distribution with the variance of uniform choices, at least one each."""
    mean = pairs / experts
    if experts == 1 or mean <= 1.0:
        return [mean] * experts
    spread = NormalDist(mean, (mean * (1 - 1 / experts)) ** 0.5)
    found = [max(1.0, spread.inv_cdf((i + 0.5) / experts)) for i in range(experts)]
    return [tokens * pairs / sum(found) for tokens in found]


MACHINE = Duplex
