"""Contiguous virtual caches beside block tables on this machine: attention, allocation, and waste by page
size.

    python benchmarks/virtual_memory.py [--context N] [--repeats R] [--json]

Attention: one decoding query of 9 heads (3 KV heads of 64) over a context, by the reference kernel, which
gathers blocks but reads a mapped row in place, and by the native kernel, which takes both as they are.
Mapping: what it takes to let a block appear, and a prompt of 1024 tokens, for 30 layers; and to zero and
fault in as much memory that is not shared. Waste: bytes that a sequence holds beyond its entries, mean over
lengths up to the context, by size of a page, for models of the catalogue.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from twofold.kernels.cpu import native
from twofold.kernels.cpu.cache import NativeCache, attend_paged
from twofold.kernels.cpu.cache_formats import entry_format
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.reference.attention import attend_sequence
from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.catalog import get_spec
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput, flat_slots
from twofold.ops.attention import Span
from twofold.techniques.placement.page_map import Run, fit_factor
from twofold.techniques.placement.virtual_caches import VirtualCaches

HEADS = Heads(9, 3, 64, 64, 0.125, None, None, "fp32", 4)
LAYERS = 30
BLOCK = 32
PAGE = 4096


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """The median of `repeats` runs."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def make(kind: str, count: int) -> list[CacheLayer]:
    """`count` cache layers, not allocated."""
    if kind == "reference":
        return [DenseCache(HEADS, BLOCK) for _ in range(count)]
    return [NativeCache(HEADS, BLOCK, entry_format("f16")) for _ in range(count)]


def step_of(table: list[int], keys: int) -> StepInput:
    """A decoding step of one sequence."""
    slots = flat_slots(table, BLOCK, keys)
    return StepInput(
        [Span(1, keys)], 1, 1, slots=slots[-1:], rows=[0], block_tables=[table], block_size=BLOCK
    )


def attention(kind: str, context: int, repeats: int) -> dict[str, float]:
    """Seconds of attention over scattered blocks and over a mapped row."""
    blocks = context // BLOCK
    table = list(range(blocks))
    random.Random(1).shuffle(table)
    size = CacheSize(blocks, BLOCK, 1)
    (paged,), (mapped,) = make(kind, 1), make(kind, 1)
    paged.allocate(size, torch.device("cpu"))
    storage = VirtualCaches([mapped], size, PAGE, torch.device("cpu"))
    storage.map([Run(0, place, block, 1) for place, block in enumerate(table)])
    k, v = torch.randn(2, context, 3, 64)
    q = torch.randn(1, 9, 64)
    fill = StepInput([Span(context, context)], context, 0, slots=flat_slots(table, BLOCK, context))
    paged.write(fill, k, v)
    mapped.write(StepInput([Span(context, context)], context, 0, slots=torch.arange(context)), k, v)
    row = step_of(list(range(blocks)), context)
    row.starts = [0]
    found: dict[str, float] = {}
    results = []
    extension = native()
    for name, cache, step in (("block table", paged, step_of(table, context)), ("mapped", mapped, row)):

        def reference(cache: CacheLayer = cache, step: StepInput = step) -> torch.Tensor:
            return attend_sequence(q, *cache.read(step, 0), HEADS)

        if kind == "reference":
            work: Callable[[], torch.Tensor] = reference
        else:
            assert isinstance(cache, NativeCache)
            ctx, handle = CpuContext(extension, 1), cache.handle()

            def work(ctx: CpuContext = ctx, handle: Any = handle, step: StepInput = step) -> torch.Tensor:
                out: torch.Tensor = attend_paged(ctx, handle, HEADS, q, step)
                return out

        results.append(work().clone())
        found[name] = seconds(work, repeats)
    assert torch.equal(*results), "the two do not agree"
    return found


def mapping(repeats: int) -> dict[str, float]:
    """Seconds to map a block and a prompt for all layers, by page, and to fault in private memory."""
    blocks = 64
    layers = make("native", LAYERS)
    storage = VirtualCaches(layers, CacheSize(blocks, BLOCK, repeats), PAGE, torch.device("cpu"))
    block_bytes = sum(layer.block_bytes() for layer in layers)
    rows = iter(range(repeats))
    prompt = 1024 // BLOCK
    storage.map([Run(0, 0, 0, blocks)])  # the pages exist from here on
    storage.unmap(0, blocks)
    one = seconds(lambda: storage.map([Run(next(rows), 0, 5, 1)]), repeats)
    rows = iter(range(repeats))
    many = seconds(lambda: storage.map([Run(next(rows), 1, 6, prompt)]), repeats)
    rows = iter(range(repeats))
    gone = seconds(lambda: storage.unmap(next(rows), 1 + prompt), repeats)
    private = seconds(
        lambda: reserve((prompt * block_bytes,), torch.uint8, torch.device("cpu")).zero_(), repeats
    )
    pages = block_bytes // PAGE
    return {
        "block": one,
        "block, per page": one / pages,
        "prompt of 1024": many,
        "prompt, per page": many / pages / prompt,
        "unmap prompt": gone,
        "as much private memory": private,
    }


def waste(model: str, context: int) -> dict[str, dict[str, float]]:
    """By page size: tokens of a block, and the share of a sequence's memory that holds nothing."""
    spec = get_spec(model)
    part = 16 * spec.num_kv_heads * spec.head_dim * 2
    found = {"block table of 16": 16, "block table of 256": 256}
    found |= {
        f"pages of {page >> 10} KiB": 16 * fit_factor([part, part], page)
        for page in (4 << 10, 64 << 10, 128 << 10, 256 << 10, 2 << 20)
    }
    table = {}
    for name, tokens in found.items():
        shares = [1 - n / (-(-n // tokens) * tokens) for n in range(1, context + 1, 37)]
        table[name] = {"tokens": tokens, "waste": statistics.mean(shares)}
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = ["reference"] + (["native"] if native() is not None else [])
    result: dict[str, Any] = {kind: attention(kind, args.context, args.repeats) for kind in kinds}
    if native() is not None:
        result["mapping"] = mapping(args.repeats)
    result["waste"] = {m: waste(m, args.context) for m in ("smollm2-135m", "llama-3.1-8b", "yi-6b-200k")}
    if args.json:
        print(json.dumps(result))
        return
    for kind in kinds:
        times = ", ".join(f"{name} {taken * 1e6:.0f} us" for name, taken in result[kind].items())
        print(f"attention over {args.context} keys, {kind} kernel: {times}")
    for name, taken in result.get("mapping", {}).items():
        print(f"mapping, {name}: {taken * 1e6:.2f} us")
    for model, table in result["waste"].items():
        for name, row in table.items():
            print(f"{model}, {name}: {row['tokens']:.0f} tokens a block, {row['waste']:.1%} unused")


if __name__ == "__main__":
    main()
