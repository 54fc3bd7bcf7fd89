"""InstInfer: a GPU, and drives that hold the KV cache in flash and attend to it where it lies.

Source: Pan et al., "InstInfer: in-storage attention offloading for cost-effective long-context LLM inference"
(arXiv:2409.04992; HPCA 2025 as InstAttention). The GPU does all of a prompt and, of a decoded token, all but
the attention: it sends queries to the drives and gets attention back, while keys and values go into the
drives as each layer makes them. Heads are dealt out over the drives. The whole cache is read for every token;
the technique `sparf` is what reads less of it.

The GPU is the catalogue's roofline. The drives were never measured here: their figures are those of the
source's emulated drive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twofold.devices.catalog import energy_table, get_device
from twofold.devices.machine import Machine, Peaks
from twofold.devices.parts.energy import Process
from twofold.devices.parts.nand import Nand, NandEnergy, NandShape, NandTiming, usual_energy
from twofold.devices.parts.work import NOTHING, Work
from twofold.devices.roofline import Roofline
from twofold.ops import Attention, CacheWrite, Embedding, Linear, Op, SpanTotals
from twofold.ops.sparf_attention import SparfAttention

if TYPE_CHECKING:
    from twofold.devices.efficiency.kernels import Kernels

GPU = "a6000"
_GPU_PARTS = {"compute": "array", "memory": "dram", "overhead": "host", "link": "link"}
"""What a GPU's op waits for, by the bound that its roofline names."""
_READ_SECONDS = 45e-6

PAPER = "HPCA 2025 version of arXiv:2409.04992"
SAMSUNG = "Samsung on its sixth V-NAND (2019), as reported by anandtech.com/show/14721"
SOURCES = {
    "drives": f"{PAPER}, section VI-C: one or two",
    "shape.channels": f"{PAPER}, section V-B: 8, as a Samsung 980 PRO",
    "shape.chips, shape.dies, shape.planes": "assumption: 2 TB in dies of 256 Gbit of two planes, as "
    f"{SAMSUNG}",
    "shape.page_bytes": f"{PAPER}, section IV-C: 4 KiB, 16 tokens of a head of 128 in 16 bits",
    "timing.read": f"{SAMSUNG}: below 45 us",
    "timing.transfer": f"{PAPER}, section V-B: 1.4 GB/s a channel",
    "energy": "github.com/SimpleSSD/SimpleSSD @master, fil/config.cc, defaults: 3.3 V; 25 mA for tR, 10 mA "
    "on a bus at 400 MT/s, 30 uA in standby",
    "write_joules": "assumption: the same current for the 450 us that Samsung reports for a write, of three "
    "pages of 16 KiB at once",
    "drive_bytes": f"{PAPER}, section VI-A: 2 TB",
    "gemv_flops": f"{PAPER}, table I: 12.7 GFLOP/s (real), in each of two attention kernels. Its softmax "
    "(14.2 MFLOP/s) would take longer than the reads of table III allow, so that it is left out",
    "filter_bandwidth": f"{PAPER}, table I: 1.85 GB/s, in the flash controller of each channel",
    "engine_joules": "assumption: an FP16 multiply-accumulate at 28 nm (`parts.energy`), per FLOP",
    "pcie_bandwidth": f"{PAPER}, section V-B: PCIe 4.0 x4, 7 GB/s",
    "pcie_latency, pcie_joules": "devices/catalog: as PCIe of the GPU",
    "write_bandwidth": f"{PAPER}, table III: 3.78 GB/s while prompts are read",
    "channels_per_page": f"{PAPER}, section IV-C: 2 to 8 channels of keys in a page; 2 are 1,024 tokens",
    "drive_watts": "AnandTech's review of the Samsung 980 PRO: 3.18 W at most in its lowest state that "
    "works; assumption: its controller and DRAM, always; pages and buses besides",
}
"""Where each figure of `InstInferFigures` comes from. The GPU's are in devices/catalog/a6000.yaml."""


@dataclass(frozen=True, slots=True)
class InstInferFigures:
    """The drives. Defaults: SOURCES says where each comes from.

    gemv_flops: FLOP/s of a drive's products with keys and values; filter_bandwidth: bytes/s that a channel's
    controller picks entries out of; engine_joules: of a FLOP; write_bandwidth, write_joules: of a byte into
    flash; channels_per_page: elements of a key whose tokens share a page, in the second copy of the keys;
    drive_watts: of a drive that is awake and reads nothing.
    """

    drives: int = 1
    shape: NandShape = field(default_factory=lambda: NandShape(8, 4, 2, 2, 4096))
    timing: NandTiming = field(default_factory=lambda: NandTiming(_READ_SECONDS, 1.4e9))
    energy: NandEnergy = field(default_factory=lambda: usual_energy(_READ_SECONDS))
    write_joules: float = 3.3 * 25e-3 * 450e-6 / (3 * 16384)
    drive_bytes: int = 2_000_000_000_000
    gemv_flops: float = 2 * 12.7e9
    filter_bandwidth: float = 1.85e9
    engine_joules: float = Process(28).mac("fp16", "fp16") / 2
    pcie_bandwidth: float = 7e9
    pcie_latency: float = 2e-6
    pcie_joules: float = 52e-12
    write_bandwidth: float = 3.78e9
    channels_per_page: int = 2
    drive_watts: float = 3.18

    def __post_init__(self) -> None:
        for name in (
            "drives",
            "drive_bytes",
            "gemv_flops",
            "filter_bandwidth",
            "pcie_bandwidth",
            "write_bandwidth",
            "channels_per_page",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"instinfer: {name} must be positive, not {getattr(self, name)!r}")
        for name in ("write_joules", "engine_joules", "pcie_latency", "pcie_joules", "drive_watts"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"instinfer: {name} must not be negative, not {getattr(self, name)!r}")


class InstInfer(Machine):
    """The modelled machine. `figures`: its drives; `gpu`: the rest."""

    name = "instinfer"
    title = "InstInfer: RTX A6000 and drives that attend to the cache in their flash"
    kind = "in-storage"
    source = "InstInfer, arXiv:2409.04992; HPCA 2025 (InstAttention)"
    precisions = ("bf16", "fp16")
    sources = SOURCES
    more = ("drives", "gemv_flops", "pcie_bandwidth", "write_bandwidth")

    figures: InstInferFigures

    def __init__(self, figures: InstInferFigures | None = None, *, tp: int = 1) -> None:
        f = figures or InstInferFigures()
        self.gpu = Roofline(get_device(GPU))
        self.nand = Nand(f.shape, f.timing, f.energy)
        watts = self.gpu.idle_watts + f.drives * (f.drive_watts + self.nand.standby_watts)
        super().__init__(
            f,
            memory=self.gpu.memory["device"],
            idle_watts=watts,
            tp=tp,
            step_overhead=self.gpu.step_overhead,
        )
        self.cache_memory = f.drives * f.drive_bytes
        self.generation = self.gpu.generation

    def use(self, kernels: Kernels) -> None:
        """See `ModelledDevice.use`: the GPU's."""
        self.gpu.use(kernels)
        self.forget_charges()

    def peaks(self) -> Peaks:
        """The GPU's: its memory is faster than any number of drives that a host has."""
        file = self.gpu.file
        memory = max(file.memory.bandwidth.value, self.figures.drives * self.nand.bus_bandwidth)
        rates = {name: figure.value for name, figure in file.matmul.items()}
        return Peaks(memory, rates, energy_table().memory[file.memory.technology].value)

    # --- what an op takes ---

    def work(self, op: Op) -> Work:
        """Attention and the cache are shared with the drives; everything else is the GPU's."""
        match op:
            case Attention():
                return self.attention(op)
            case CacheWrite():
                return self.cache_write(op)
        return self._on_gpu(op)

    def linear(self, op: Linear) -> Work:
        """On the GPU."""
        return self._on_gpu(op)

    def embedding(self, op: Embedding) -> Work:
        """On the GPU."""
        return self._on_gpu(op)

    def elementwise(self, op: Op) -> Work:
        """On the GPU."""
        return self._on_gpu(op)

    def attention(self, op: Attention) -> Work:
        """Prompts on the GPU, single queries in the drives."""
        if type(op) not in (Attention, SparfAttention) or op.space != "device" or op.format or op.widen_flop:
            raise self.refusal(
                op,
                "its drives attend to 16-bit numbers in their flash, to all of them or as sparf does; leave "
                "out what stores or chooses entries otherwise",
            )
        prompts, decodes = (op.whole, op.few) if isinstance(op, SparfAttention) else parts_of(op.totals)
        work = NOTHING
        if prompts.queries:
            work = self._attend_prompts(op, prompts)
        return work.then(self._attend_in_drives(op, decodes)) if decodes.queries else work

    def cache_write(self, op: CacheWrite) -> Work:
        """Over PCIe into the drives' buffers, and from there into flash."""
        if op.space != "device" or op.pack_flop:
            raise self.refusal(op, "its drives store entries as 16-bit numbers; keep a plain cache there")
        f = self.figures
        rate = f.drives * min(f.write_bandwidth, f.pcie_bandwidth)
        seconds = f.pcie_latency + op.cache_bytes / rate
        sent = Work.of("link", seconds, op.cache_bytes * f.pcie_joules)
        return sent.beside(Work.of("flash", seconds, op.cache_bytes * f.write_joules))

    def unit(self, op: Op) -> str:
        """Writes go on while the GPU computes the next layer."""
        if isinstance(op, CacheWrite):
            return "write"
        return "" if isinstance(op, Attention) and op.totals.singles else "gpu"

    def overlapped(self, seconds: float, busy: dict[str, float]) -> float:
        """See `ModelledDevice.overlapped`."""
        return seconds - min(busy.get("write", 0.0), busy.get("gpu", 0.0))

    def _on_gpu(self, op: Op) -> Work:
        charge = self.gpu.charge(op, op.cost())
        return Work.of(_GPU_PARTS[charge.bound], charge.seconds, charge.joules)

    def _attend_prompts(self, op: Attention, totals: SpanTotals) -> Work:
        """On the GPU, which has the keys of a step's own tokens; earlier ones come from the drives."""
        entry = op.kv_heads * (op.head_dim + op.v_dim) * op.act_bytes
        earlier = max(0, totals.keys - totals.queries) * entry
        plain = Attention(
            totals,
            op.heads,
            op.kv_heads,
            op.head_dim,
            op.v_dim,
            totals.keys * entry,
            op.compute,
            op.act_bytes,
        )
        return self._on_gpu(plain).beside(self._link(earlier)) if earlier else self._on_gpu(plain)

    def _attend_in_drives(self, op: Attention, totals: SpanTotals) -> Work:
        """Queries in, cache through the engine, attention out."""
        element = totals.queries * op.heads * op.act_bytes
        keys, both = op.head_dim, op.head_dim + op.v_dim
        entries = totals.keys * op.kv_heads * op.act_bytes
        if isinstance(op, SparfAttention):
            # A page holds elements of a few channels: it is read where one of them is compared.
            skipped = (1 - op.rank / op.head_dim) ** self.figures.channels_per_page
            first = self._stream(entries * keys * (1 - skipped), 2.0 * totals.keys * op.heads * op.rank, op)
            rows = op.groups * op.group * op.kv_heads * op.act_bytes * both
            inside = first.then(self._stream(rows, 2.0 * op.kept * op.heads * both, op))
        else:
            inside = self._stream(entries * both, 2.0 * totals.pairs * op.heads * both, op)
        return self._link(element * op.head_dim).then(inside).then(self._link(element * op.v_dim))

    def _stream(self, nbytes: float, flop: float, op: Attention) -> Work:
        """`nbytes` of pages of all drives through filters and products."""
        f = self.figures
        share = -(-op.kv_heads // f.drives) / op.kv_heads  # of the busiest drive, which has whole heads
        pages = self.nand.pages_of(nbytes * share)
        sensed = self.nand.read_joules(nbytes / f.shape.page_bytes, nbytes)
        read = Work.of("flash", self.nand.read_seconds(pages), sensed)
        filtered = nbytes * share / (f.filter_bandwidth * f.shape.channels)
        seconds = max(filtered, flop * share / f.gemv_flops)
        return read.beside(Work.of("array", seconds, flop * f.engine_joules))

    def _link(self, nbytes: float) -> Work:
        f = self.figures
        seconds = f.pcie_latency + nbytes / (f.drives * f.pcie_bandwidth)
        return Work.of("link", seconds, nbytes * f.pcie_joules)


def parts_of(totals: SpanTotals) -> tuple[SpanTotals, SpanTotals]:
    """Those of the sequences with several queries, and of those with one."""
    t, count, keys = totals, totals.singles, totals.single_keys
    single = SpanTotals(count, count, keys, keys, t.max_keys, count, keys)
    rest = SpanTotals(t.num_seqs - count, t.queries - count, t.keys - keys, t.pairs - keys, t.max_keys, 0, 0)
    return rest, single


MACHINE = InstInfer
