"""Per kernel: what a call costs and how fast it works by size, measured in engines that run probe models."""

from __future__ import annotations

from dataclasses import replace

from twofold.devices.base import OpTotals
from twofold.devices.calibrated import RECORDED_TOKENS
from twofold.devices.calibration import AttentionCurve, KindCurve, Points, ProductCurve, product_name
from twofold.devices.curves import Curve
from twofold.measure.device_document import Measured
from twofold.measure.own_ops import fitted_totals
from twofold.measure.probe import LARGE, NARROW, SMALL, Probe, quartile
from twofold.ops.attention import Attention
from twofold.ops.formats import get_format
from twofold.ops.linear import Linear

DEEP = replace(SMALL, num_layers=8)
"""Deep enough that its weights sweep the inner caches in every step."""

ROWS, QUICK_ROWS = (1, 4, 16, 64, 256, 512), (1, 16, 256)
PACKED_FORMATS, QUICK_FORMATS = ("q4_1", "q8_0", "q4_k", "q6_k"), ("q4_1",)
WEIGHTS = (
    "",
    "int-vs-fp",
    "int-vs-fp:format=mxfp8",
    "tvw-sparsity:sparsity=0.5",
    "bipolar-int",
    "int-vs-fp:format=mxint4",
    "int-vs-fp:activations=mxint8",
    "olive",
    "gptq",
)
"""Techniques that store the weights of a float32 checkpoint, each for another kernel (the third for none)."""
QUICK_WEIGHTS = WEIGHTS[:5]

CACHES, QUICK_CACHES = ("kivi:bits=4", "kivi:bits=2"), ("kivi:bits=4",)
"""Techniques that store the cache in their own way."""
FORMATS = ("f32", "int8", "int4")
"""Native formats of the cache beside the device's own."""
PROMPTS, QUICK_PROMPTS = (128, 512, 2048), (512,)
QUERIES, QUICK_QUERIES = (32, 128, 512), (64, 512)
KEYS = 512
FEW_KEYS, WINDOW_KEYS = 32, 96
"""Cached entries that are next to none, and more of those that techniques do not pack yet."""
LAYERS, MORE_LAYERS = (24,), (16, 32)
"""Depths of models whose caches do not fit inner caches, and perhaps not the outer one."""
SEQS = 16

KIND_TOKENS, QUICK_TOKENS = (16, 64, 256, 512), (64, 512)
ONCE = ("norm", "rotary", "activation", "embedding", "cache-write")
"""Kinds of ops that pass over their operands once."""


def _budget(quick: bool) -> float:
    """Seconds that one figure is worth: long enough to have quiet moments on a machine that others use."""
    return 0.05 if quick else 0.25


def measure_calls(m: Measured, quick: bool) -> None:
    """What products cost besides their work, on a model so narrow that there is nothing to compute, and what
    the engine does per step and per sequence besides its ops."""
    budget, steps = _budget(quick), 24 if quick else 96
    apart = Probe(NARROW, m.device, max_seqs=16)
    linear = apart.decode(4, 1, budget)["linear"]
    m.call = linear.seconds / linear.calls
    whole = Probe(NARROW, m.device, max_seqs=16, profile=False)
    rest = {}
    for seqs in (1, 16):
        ops = sum(t.seconds for kind, t in apart.decode(4, seqs, budget).items() if kind != "sample")
        rest[seqs] = max(0.0, whole.step_seconds(seqs, steps) - ops)
    m.sequence = max(0.0, (rest[16] - rest[1]) / 15)
    m.step = max(0.0, rest[1] - m.sequence)
    m.unrecorded = _unrecorded(m, quick)


def _unrecorded(m: Measured, quick: bool) -> float:
    """Seconds that an op takes besides its work in a step that is not replayed from a recording."""
    lengths = range(RECORDED_TOKENS + 1, RECORDED_TOKENS + (8 if quick else 24))
    probe = Probe(NARROW, m.device, profile=False)
    count = len(probe.ops(1))
    first, again = [], []
    for tokens in lengths:  # a step is recorded when its like comes for the second time
        first.append(probe.prefill_seconds(tokens))
        probe.prefill_seconds(tokens)
        again.append(probe.prefill_seconds(tokens))
    return max(0.0, (quartile(first) - quartile(again)) / count)


def measure_products(m: Measured, quick: bool) -> None:
    """FLOP/s by rows for every way that weights are stored, of large and of small matrices. The small ones
    twice (quick: once), the better of both: a machine that others use may be slow for a second."""
    for spec in (SMALL,) if quick else (LARGE, SMALL, SMALL):
        few = quick or spec is LARGE
        if m.device.stored_weights:
            formats = QUICK_FORMATS if quick else PACKED_FORMATS
            for fmt in (f for f in formats if spec.hidden % get_format(f).block == 0):
                _products(m, Probe(spec, m.device, fmt=fmt, max_seqs=16), quick)
        for technique in QUICK_WEIGHTS if few else WEIGHTS:
            _products(m, Probe(spec, m.device, fmt="f32", technique=technique, max_seqs=16), quick)
    for curves in m.products.values():
        curves.sort(key=lambda curve: curve.size)


def _products(m: Measured, probe: Probe, quick: bool) -> None:
    """What products of a step take besides calls and the streaming of the weights, as `Calibrated` puts both
    together."""
    layer = [op for op in probe.ops(1) if isinstance(op, Linear)]
    weights = sum(op.weight_bytes for op in layer)
    stream = weights / Curve.bandwidth(m.read)(weights)
    points = []
    for rows in QUICK_ROWS if quick else ROWS:
        budget = _budget(quick)
        found = probe.prefill(rows, budget) if rows > 16 else probe.decode(FEW_KEYS, rows, budget)
        linear = found["linear"]
        busy = max(linear.seconds - linear.calls * m.call, 0.2 * linear.seconds)
        computing = busy - m.exposed * stream
        if computing < stream:  # streaming is the longer part, and hides most of computing
            computing = (busy - stream) / m.exposed if m.exposed else 0.0
            computing = min(max(computing, 0.05 * stream), stream)
        points.append((float(rows), linear.flop / computing))
    names = [product_name(op) for op in layer]
    size = sum(op.in_features * op.out_features for op in layer) / len(layer)
    curves = m.products.setdefault(max(set(names), key=names.count), [])
    for i, curve in enumerate(curves):
        if curve.size == size:
            curves[i] = ProductCurve(size=size, rate=_better(curve.rate, points))
            return
    curves.append(ProductCurve(size=size, rate=points))


def _better(some: Points, others: Points) -> Points:
    """The faster of two measurements of the same points."""
    return [(x, max(y, again)) for (x, y), (_, again) in zip(some, others, strict=True)]


def measure_kinds(m: Measured, quick: bool) -> None:
    """Ops that pass over their operands once, among products whose weights sweep the inner caches."""
    probe = Probe(DEEP, m.device)
    single = probe.decode(FEW_KEYS, 1, _budget(quick))
    rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in ONCE}
    for tokens in QUICK_TOKENS if quick else KIND_TOKENS:
        found = probe.prefill(tokens, _budget(quick))
        for kind, points in rates.items():
            total = found[kind]
            call = single[kind].seconds / single[kind].calls
            busy = max(total.seconds - total.calls * call, 0.2 * total.seconds)
            moved = total.bytes_moved / total.calls
            points.append((moved, total.bytes_moved / busy))
    for kind, points in rates.items():
        m.kinds[kind] = KindCurve(call=single[kind].seconds / single[kind].calls, rate=points)


def measure_attention(m: Measured, quick: bool) -> None:
    """Attention over every format of the cache: the device's own, other native ones, those of techniques."""
    own: list[tuple[str, str]] = [(m.device.cache_format or "", "")]
    native = [] if quick or m.device.cache_format is None else [(name, "") for name in FORMATS]
    stored = [("", name) for name in (QUICK_CACHES if quick else CACHES)]
    for fmt, technique in [*own, *native, *stored]:
        _attention(m, fmt, technique, quick)
    if m.device.cache_format is not None:
        _whole_prompts(m, quick)
    if not quick:  # again, since so much rests on it; the better of both, as of products
        name, first = next(iter(m.attention.items()))
        _attention(m, *own[0], quick)
        second = m.attention[name]
        m.attention[name] = second.model_copy(
            update={
                "call": min(first.call, second.call),
                "sequence": min(first.sequence, second.sequence),
                "read": _better(first.read, second.read),
                "queries": _better(first.queries, second.queries),
            }
        )


def _whole_prompts(m: Measured, quick: bool) -> None:
    """Attention of a pass over a whole prompt that keeps its keys as activations, as prompt filters do."""
    own = m.attention[m.device.cache_format or ""]
    last = DEEP.num_layers - 1
    longest = PROMPTS[-1]
    probe = Probe(
        DEEP,
        m.device,
        technique=f"gemfilter:layer={last},keep=16",
        max_keys=longest + 16,
        step_tokens=longest,
    )
    points = []
    for tokens in QUICK_PROMPTS if quick else PROMPTS:
        found = probe.prefill(tokens, _budget(quick))["attention"]
        points.append((float(tokens), found.flop / found.seconds))
    m.attention[""] = own.model_copy(update={"queries": points, "gathers": False})


def _attention(m: Measured, fmt: str, technique: str, quick: bool) -> None:
    """One format, among products whose weights sweep the inner caches. Of a technique that packs older
    entries, reading is measured on those that are not packed yet, and unpacking beside it."""
    asked, seqs = fmt if fmt in FORMATS else "auto", SEQS
    probe = Probe(
        DEEP,
        m.device,
        technique=technique,
        cache_format=asked,
        max_keys=KEYS + 64,
        max_seqs=seqs,
        step_tokens=seqs * KEYS,
    )
    op = next(op for op in probe.ops(1) if isinstance(op, Attention))
    writes: list[OpTotals] = []

    def decode(entries: int, seqs: int) -> OpTotals:
        """What one op takes and counts."""
        found = probe.decode(entries, seqs, _budget(quick))
        writes.append(found["cache-write"])
        return found["attention"].each()

    one, several = decode(FEW_KEYS, 1), decode(FEW_KEYS, seqs)
    long = decode(KEYS, seqs)
    more = decode(WINDOW_KEYS, seqs) if technique else long
    read = (more.bytes_moved - several.bytes_moved) / max(more.seconds - several.seconds, 0.2 * more.seconds)
    each = several.bytes_moved / seqs / read
    sequence = max(0.0, (several.seconds - one.seconds) / (seqs - 1) - each)
    call = max(0.0, one.seconds - sequence - each)
    widen = 0.0
    if technique:
        unpacking = long.seconds - call - seqs * sequence - long.bytes_moved / read
        softmax = 5.0 * long.flop / (2 * (op.head_dim + op.v_dim))  # see `Attention.cost`
        widen = max(0.0, unpacking) / (long.vector_flop - softmax)
    gathers = m.device.context is None or probe.device.reference_ops["Attention"] > 0
    points = []
    for queries in QUICK_QUERIES if quick else QUERIES:
        found = probe.prefill(queries, _budget(quick))
        attention = found["attention"]
        writes.append(found["cache-write"])
        busy = attention.seconds - attention.calls * (call + sequence)
        if gathers:
            busy -= attention.bytes_moved / read
        points.append((float(queries), attention.flop / max(busy, 0.2 * attention.seconds)))
    reads = [(_step_bytes(probe, seqs), read)]
    if not technique and fmt not in FORMATS:
        deep = [_reads(m, LAYERS if quick else MORE_LAYERS, call + seqs * sequence) for _ in range(2)]
        reads += _better(*deep)
    m.attention[op.format] = AttentionCurve(
        call=call, sequence=sequence, widen=widen, read=reads, queries=points, gathers=gathers
    )
    if technique:  # packing is no matter of bytes alone
        m.own[f"CacheWrite:{op.format}"] = fitted_totals(writes)


def _reads(m: Measured, layers: tuple[int, ...], calling: float) -> list[tuple[float, float]]:
    """Bytes/s of the device's own cache by the bytes that a step of deeper models goes through."""
    points = []
    for count in layers:
        probe = Probe(
            replace(SMALL, num_layers=count),
            m.device,
            max_keys=KEYS + 64,
            max_seqs=SEQS,
            step_tokens=SEQS * KEYS,
        )
        found = probe.decode(KEYS, SEQS, _budget(quick=False))["attention"]
        busy = max(found.seconds - found.calls * calling, 0.2 * found.seconds)
        points.append((_step_bytes(probe, SEQS), found.bytes_moved / busy))
    return points


def _step_bytes(probe: Probe, seqs: int) -> float:
    """Bytes of weights and cache that a decoding step of `seqs` long sequences goes through."""
    weights = sum(op.weight_bytes for op in probe.ops(1) if isinstance(op, Linear))
    return weights + seqs * KEYS * probe.engine.runner.block_bytes / probe.engine.runner.size.block_size
