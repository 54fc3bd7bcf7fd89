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

from dataclasses import fields
from typing import ClassVar, Literal

from twofold.devices.base import Confidence
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.devices.parts.bank_mac import MacStream, matrix_streams, run
from twofold.devices.parts.dram import Dram, DramWork
from twofold.devices.parts.vector_unit import ADD, GELU, MUL, SILU, TANH, Arithmetic, norm, softmax
from twofold.devices.pim_gpt_config import SOURCES, PimGptConfig
from twofold.ops import (
    Activate,
    Add,
    AddNorm,
    Attention,
    CacheWrite,
    Cost,
    Embedding,
    Gather,
    Linear,
    Norm,
    Op,
    RotaryQKV,
    Sample,
    Softcap,
)

_ELEMENT = 2  # bytes of a bfloat16


class PimGpt(ModelledDevice):
    """The modelled machine. `config`: its figures; `dram`: the memory they describe."""

    name = "pim-gpt"
    kind: ClassVar[str] = "pim"
    source: ClassVar[str] = "PIM-GPT, arXiv:2310.09385; npj Unconventional Computing (2024)"
    note: ClassVar[str] = "not validated by measurement"
    precisions: ClassVar[tuple[str, ...]] = ("bf16",)
    confidence: Confidence = "datasheet"

    def __init__(self, config: PimGptConfig | None = None) -> None:
        self.config = config or PimGptConfig()
        c = self.config
        self.dram = Dram(c.shape, c.timing, c.energy)
        super().__init__(idle_watts=self.dram.standby_watts + c.asic_watts)
        self.memory = {"device": c.shape.nbytes}

    # --- what the machine is ---

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates per second of all banks, rows being open."""
        return self.dram.bank_bandwidth / _ELEMENT

    def describe(self) -> dict[str, object]:
        """What the machine says of itself: name, kind, source, confidence, figures and where they come
        from."""
        return {
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "confidence": self.confidence,
            "note": self.note,
            "memory": dict(self.memory),
            "bank_bandwidth": self.dram.bank_bandwidth,
            "bus_bandwidth": self.dram.bus_bandwidth,
            "macs_per_second": self.macs_per_second,
            "config": {f.name: getattr(self.config, f.name) for f in fields(self.config)},
            "sources": dict(SOURCES),
        }

    def check_fit(self, weight_bytes: int, cache_bytes: int) -> None:
        """ValueError where weights and cache exceed the banks: there is no second memory to take the rest."""
        need, have = weight_bytes + cache_bytes, self.memory["device"]
        if need > have:
            raise ValueError(
                f"pim-gpt holds {have / 1e9:.2f} GB in its banks; weights ({weight_bytes / 1e9:.2f} GB) and "
                f"cache ({cache_bytes / 1e9:.2f} GB) need {need / 1e9:.2f} GB: shorten the context, choose a "
                f"smaller model, or give it at least {-(-need * self.config.shape.channels // have)} channels"
            )

    # --- what an op takes ---

    def charge(self, op: Op, cost: Cost) -> Charge:
        """Seconds and joules of `op`; standby and ASIC power come on top for as long as a step takes
        (`idle_watts`)."""
        del cost
        if (act_bytes := getattr(op, "act_bytes", _ELEMENT)) != _ELEMENT:
            raise ValueError(
                f"pim-gpt computes on bfloat16 activations of 2 bytes, not {act_bytes}: plan with precision "
                "bf16"
            )
        match op:
            case Linear():
                return self._linear(op)
            case Attention():
                return self._attention(op)
            case CacheWrite():
                return self._cache_write(op)
            case Embedding():
                work = self.dram.read_row(op.row_bytes) * (op.tokens * op.tables)
                sums = ADD * (op.width * (op.tables - 1) * op.tokens)
                return self._charge(work, self.config.asic.seconds(sums) if op.tables > 1 else 0.0, "memory")
            case AddNorm():
                return self._asic(
                    (ADD * op.width).then(norm(op.width, centred=op.norm == "layer")), op.tokens
                )
            case Norm():
                return self._asic(norm(op.width, centred=op.norm == "layer"), op.tokens)
            case Add():
                return self._asic(ADD * op.width, op.tokens)
            case Activate():
                return self._asic(_activation(op), op.tokens)
            case RotaryQKV():
                if not op.rotated and not op.qk_norm:
                    return Charge(0.0, 0.0, "compute")  # a split moves nothing
                return self._asic(_rotation(op), op.tokens)
            case Gather():
                return Charge(0.0, 0.0, "compute")  # rows that want no logits are not sent on
            case Softcap():
                return self._asic((MUL.then(TANH).then(MUL)) * op.vocab, op.rows)
            case Sample():
                return self._asic(ADD * op.vocab, op.rows)
        raise ValueError(
            f"pim-gpt cannot execute {type(op).__name__}: it is one board of "
            f"{self.config.shape.channels} channels with an ASIC, without links to other devices, host "
            "memory or expert routing; plan one device, a dense model and the whole cache in device memory"
        )

    def _charge(self, work: DramWork, asic_seconds: float, bound: Literal["memory", "compute"]) -> Charge:
        """Banks first, then the ASIC: each waits for the other's results."""
        multiplying = work.macs * self.config.timing.ccd * self.config.mac_watts
        return Charge(work.seconds + asic_seconds, self.dram.joules(work) + multiplying, bound)

    def _asic(self, arithmetic: Arithmetic, tokens: int) -> Charge:
        return Charge(self.config.asic.seconds(arithmetic) * tokens, 0.0, "compute")

    def _linear(self, op: Linear) -> Charge:
        if op.format != "bf16":
            raise ValueError(
                f"pim-gpt multiplies bfloat16 weights where they lie; it cannot widen {op.format} in the "
                "banks: store the weights as bf16"
            )
        if op.space != "device":
            raise ValueError(
                f"pim-gpt multiplies weights in its banks, not in {op.space} memory: place them there"
            )
        outputs, inputs = op.out_features // op.groups, op.in_features // op.groups
        streams = matrix_streams(self.dram, outputs, inputs, _ELEMENT, self.config.buffer_bytes)
        work = run(self.dram, streams) * (op.groups * op.tokens)
        # The ASIC adds up the partial sums of the pieces, and the bias.
        sums = ADD * (op.out_features * len(streams))
        return self._charge(work, self.config.asic.seconds(sums) * op.tokens, "memory")

    def _attention(self, op: Attention) -> Charge:
        if op.widen_flop or op.space != "device":
            raise ValueError(
                "pim-gpt multiplies the cache where it lies, as bfloat16 in its banks; a packed or offloaded "
                "cache would have to be widened first: keep a dense cache in device memory"
            )
        t = op.totals
        if t.queries == 0:
            return Charge(0.0, 0.0, "memory")
        keys = -(-t.pairs // t.queries)
        streams = [*self._score_streams(op, keys), *self._value_streams(op, keys)]
        work = run(self.dram, streams) * t.queries
        asic = self.config.asic.seconds(softmax(keys) * op.heads) * t.queries
        return self._charge(work, asic, "memory")

    def _score_streams(self, op: Attention, keys: int) -> list[MacStream]:
        """q k^T: a token's keys of all heads lie together in one bank, tokens are dealt out over the
        banks."""
        s = self.config.shape
        tokens_per_bank = -(-keys // s.all_banks)
        per_head = self.dram.columns_of(op.head_dim * _ELEMENT)
        group = op.heads // op.kv_heads
        # Query heads that fit into the buffer at once, in whole groups.
        at_once = max(1, self.config.buffer_bytes // (per_head * s.column_bytes * group))
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
        s = self.config.shape
        rounds = -(-op.kv_heads // s.channels)
        outputs = -(-op.v_dim // s.banks)
        group = op.heads // op.kv_heads
        streams = []
        piece = self.config.buffer_bytes // _ELEMENT
        for start in range(0, keys, piece):
            columns = self.dram.columns_of(min(piece, keys - start) * _ELEMENT)
            streams += [MacStream(outputs, columns, fill=columns, packed=False)] * (rounds * group)
        return streams

    def _cache_write(self, op: CacheWrite) -> Charge:
        if op.pack_flop or op.space != "device" or op.cache_bytes != op.tokens * op.width * _ELEMENT:
            raise ValueError(
                "pim-gpt stores keys and values as bfloat16 in its banks: keep a dense cache in device memory"
            )
        # Half of the width is keys: one burst into a row. The other half is values: one masked column each,
        # no row hits.
        keys = self.dram.write_row(op.width // 2 * _ELEMENT)
        values = self.dram.scatter(-(-(op.width // 2) // self.config.shape.all_banks))
        return self._charge((keys + values) * op.tokens, 0.0, "memory")


def _activation(op: Activate) -> Arithmetic:
    functions = {"gelu": GELU, "gelu_tanh": GELU, "silu": SILU, "relu": ADD}
    if op.function not in functions:
        raise ValueError(f"pim-gpt has no {op.function!r} on its ASIC; it has {', '.join(functions)}")
    each = functions[op.function]
    return (each.then(MUL) if op.gated else each) * op.width


def _rotation(op: RotaryQKV) -> Arithmetic:
    """Two products and a sum per rotated element, and a norm per head where the model has one."""
    heads = op.heads + op.kv_heads
    work = Arithmetic(2, 1, 2) * (heads * op.rotated)
    return work.then(norm(op.head_dim, centred=False) * heads) if op.qk_norm else work
