"""InstInfer: decode attention in the drives, all else on the GPU."""

from __future__ import annotations

import pytest

from twofold.devices.catalog import get_device
from twofold.devices.machine import with_number
from twofold.devices.machines.instinfer import GPU, InstInfer, InstInferFigures, parts_of
from twofold.devices.registry import make_device
from twofold.devices.roofline import Roofline
from twofold.engine.build import build_engine
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.ops import Attention, CacheWrite, Linear
from twofold.ops.attention import Span, total_spans
from twofold.ops.sparse_attention import SparseAttention
from twofold.plan import Plan

HEADS, DIM = 40, 128
ENTRY = 2 * 2 * HEADS * DIM


def attention(*spans: Span, kv_heads: int = HEADS) -> Attention:
    totals = total_spans(spans)
    return Attention(totals, HEADS, kv_heads, DIM, DIM, totals.keys * ENTRY * kv_heads // HEADS, "fp16", 2)


def seconds(op: Attention | CacheWrite | Linear, machine: InstInfer | Roofline | None = None) -> float:
    return (machine or InstInfer()).charge(op, op.cost()).seconds


def predictor(machine: InstInfer, *techniques: str, batch: int = 64) -> StepPredictor:
    plan = Plan.from_dict(
        {
            "model": "opt-13b",
            "precision": "fp16",
            "techniques": list(techniques),
            "workload": {"requests": batch, "prompt": 1024, "output": 1024},
            "engine": {"max_num_seqs": batch},
        }
    )
    return StepPredictor(plan, machine, spec=get_spec("opt-13b"))


def test_products_are_the_gpus() -> None:
    """Time and energy of the catalogue's roofline."""
    op = Linear(64, 5120, 15360, "f16", 2 * 5120 * 15360, "fp16", 2)
    gpu = Roofline(get_device(GPU))
    ours, theirs = InstInfer().charge(op, op.cost()), gpu.charge(op, op.cost())
    assert (ours.seconds, ours.bound) == (theirs.seconds, theirs.bound)
    assert ours.joules == pytest.approx(theirs.joules)


def test_prompts_stay_on_the_gpu() -> None:
    """Their attention reads no flash; that of single queries takes the cache's bytes from it."""
    gpu = Roofline(get_device(GPU))
    prompt = attention(Span(1024, 1024))
    assert seconds(prompt) == pytest.approx(seconds(prompt, gpu))
    decode = attention(*[Span(1, 1500)] * 16)
    flash = decode.cache_bytes / InstInfer().nand.bus_bandwidth
    assert flash < seconds(decode) < 1.1 * flash
    assert seconds(decode) > 20 * seconds(decode, gpu)


def test_later_pieces_of_prompts_fetch_earlier_keys() -> None:
    """They come over PCIe."""
    machine = InstInfer()
    first, later = attention(Span(512, 512)), attention(Span(512, 1024))
    assert seconds(later) >= 512 * ENTRY / machine.figures.pcie_bandwidth > seconds(first)


def test_a_batch_of_both_is_their_sum() -> None:
    """The op's totals are taken apart."""
    spans = [Span(1, 900), Span(512, 512), Span(1, 300)]
    prompts, decodes = parts_of(total_spans(spans))
    assert prompts._replace(max_keys=0) == total_spans([spans[1]])._replace(max_keys=0)
    assert decodes._replace(max_keys=0) == total_spans([spans[0], spans[2]])._replace(max_keys=0)
    both = seconds(attention(*spans))
    apart = seconds(attention(spans[0], spans[2])) + seconds(attention(spans[1]))
    assert both == pytest.approx(apart, rel=0.01)


def test_grouped_queries_are_bound_by_the_engine() -> None:
    """Eight queries to a key are eight times the arithmetic of its bytes."""
    machine = InstInfer()
    op = attention(*[Span(1, 1500)] * 16, kv_heads=5)
    charge = machine.charge(op, op.cost())
    assert charge.bound == "compute"
    assert charge.seconds == pytest.approx(op.cost().flop / machine.figures.gemv_flops, rel=0.1)


def test_drives_share_heads() -> None:
    """Whole heads: 40 over 3 drives are 14 in the busiest, and more drives than heads do not help."""
    op = attention(*[Span(1, 1500)] * 16)

    def on(drives: int) -> float:
        return seconds(op, InstInfer(with_number(InstInferFigures(), "drives", drives)))

    assert on(3) == pytest.approx(on(1) * 14 / 40, rel=0.02)
    assert on(80) == pytest.approx(on(40), rel=0.02)


def test_writes_hide_behind_the_gpu() -> None:
    """Keys and values of a prompt go to the drives while the GPU computes the next layer."""
    machine = InstInfer()
    steps = predictor(machine, batch=1)
    machine.reset_totals()
    taken = steps.step([Span(1024, 1024)]).seconds
    written = machine.totals["cache-write"].seconds
    others = sum(t.seconds for kind, t in machine.totals.items() if kind != "cache-write")
    assert written > 0.1 * taken
    assert taken == pytest.approx(max(others, written), rel=0.01)


def test_cache_lies_in_the_drives() -> None:
    """More sequences fit than the GPU's memory could hold the cache of."""
    steps = predictor(InstInfer(), batch=256)
    assert steps.memory.cache > 4 * make_device(GPU).memory["device"]
    assert steps.memory.num_blocks * 16 >= 256 * 2048


def test_sparf_reads_fewer_pages() -> None:
    """Those of half of the groups, and of the elements that are compared: less than everything, and more
    than the eighth of the entries that it attends to."""
    dense, sparse = (
        predictor(InstInfer(), *techniques).step([Span(1, 1500)] * 64).seconds
        for techniques in ((), ("sparf",))
    )
    assert 0.5 * dense < sparse < 0.75 * dense
    all_groups = predictor(InstInfer(), "sparf")
    all_groups.engine.actives[0].cache.expect({"groups_read": 1.0})
    assert all_groups.step([Span(1, 1500)] * 64).seconds > 1.1 * dense


def test_what_it_cannot_do_is_refused() -> None:
    """With the reason."""
    machine = InstInfer()
    plain = attention(Span(1, 100))
    op = SparseAttention(plain.totals, HEADS, HEADS, DIM, DIM, plain.cache_bytes, "fp16", 2)
    with pytest.raises(ValueError, match="as sparf does"):
        machine.charge(op, op.cost())
    packed = CacheWrite(1, 2 * HEADS * DIM, ENTRY // 2, 2, pack_flop=100)
    with pytest.raises(ValueError, match="16-bit numbers"):
        machine.charge(packed, packed.cost())
    plan = Plan.from_dict({"model": "llama-2-7b", "techniques": ["kivi"]})
    engine = build_engine(plan, make_device("instinfer"), get_spec("llama-2-7b"))
    with pytest.raises(ValueError, match="16-bit numbers"):
        engine.play([(0.0, 300, None)])
    with pytest.raises(ValueError, match="drives"):
        InstInferFigures(drives=0)
    with pytest.raises(ValueError, match="pcie_latency"):
        InstInferFigures(pcie_latency=-1.0)
