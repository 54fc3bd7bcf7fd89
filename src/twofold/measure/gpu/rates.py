"""Bandwidth by working set, FLOP/s by precision and shape, what launching costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from twofold.devices.microbench import Reading
from twofold.measure.gpu.timing import Timer, Work
from twofold.measure.suite import size_text

SIZES = tuple(1 << bits for bits in range(20, 33))
"""Working sets in bytes, of all arrays together: from well inside the L2 to far beyond it."""
SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16, 8192, 8192), (128, 8192, 8192), (1024, 8192, 8192))
"""(rows, depth, columns) of products: square ones, and those of decoding and prefill."""
LAUNCHES = 200


def bandwidth(timer: Timer, where: torch.device, sizes: tuple[int, ...] = SIZES) -> Iterator[Reading]:
    """Copy and triad (a = b + q · c) by STREAM's rule for counting bytes, float32."""
    for size in sizes:
        a, b = (torch.ones(size // 8, device=where) for _ in range(2))
        yield _moved("copy", size, size // 8 * 8, timer.seconds(partial(a.copy_, b)))
        a, b, c = (torch.ones(size // 12, device=where) for _ in range(3))
        triad = partial(torch.add, b, c, alpha=0.4, out=a)
        yield _moved("triad", size, size // 12 * 12, timer.seconds(triad))


def _moved(bench: str, size: int, moved: int, seconds: float) -> Reading:
    return Reading(bench, size_text(size), moved / seconds, "B/s")


def products(
    timer: Timer,
    where: torch.device,
    missing: dict[str, str],
    shapes: tuple[tuple[int, int, int], ...] = SHAPES,
) -> Iterator[Reading]:
    """FLOP/s of matrix products; a precision that this GPU or this torch lacks goes to `missing`."""
    for precision, make in _PRODUCTS.items():
        bench = f"{precision} product"
        for rows, depth, cols in shapes:
            try:
                seconds = timer.seconds(make(rows, depth, cols, where))
            except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
                missing.setdefault(bench, str(error).splitlines()[0])
                continue
            yield Reading(bench, f"{rows} × {depth} × {cols}", 2.0 * rows * depth * cols / seconds, "FLOP/s")
    torch.backends.cuda.matmul.allow_tf32 = False


def _plain(dtype: torch.dtype, tf32: bool = False) -> Callable[[int, int, int, torch.device], Work]:
    def make(rows: int, depth: int, cols: int, where: torch.device) -> Work:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        x = torch.randn(rows, depth, device=where, dtype=dtype)
        w = torch.randn(cols, depth, device=where, dtype=dtype)
        out = torch.empty(rows, cols, device=where, dtype=dtype)
        return lambda: torch.mm(x, w.t(), out=out)

    return make


def _int8(rows: int, depth: int, cols: int, where: torch.device) -> Work:
    if rows <= 16:
        raise NotImplementedError("torch multiplies int8 from 17 rows up")
    x = torch.randint(-8, 8, (rows, depth), device=where, dtype=torch.int8)
    w = torch.randint(-8, 8, (cols, depth), device=where, dtype=torch.int8)
    return lambda: torch._int_mm(x, w.t())


def _fp8(rows: int, depth: int, cols: int, where: torch.device) -> Work:
    x = torch.randn(rows, depth, device=where).to(torch.float8_e4m3fn)
    w = torch.randn(cols, depth, device=where).to(torch.float8_e4m3fn)
    one = torch.ones((), device=where)
    return lambda: torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


_PRODUCTS: dict[str, Callable[[int, int, int, torch.device], Work]] = {
    "fp32": _plain(torch.float32),
    "tf32": _plain(torch.float32, tf32=True),
    "bf16": _plain(torch.bfloat16),
    "fp16": _plain(torch.float16),
    "fp8": _fp8,
    "int8": _int8,
}


def launches(timer: Timer, where: torch.device) -> Iterator[Reading]:
    """Seconds per operation that has nothing to compute: launched one by one, and replayed from a graph."""
    x = torch.zeros(1, device=where)

    def many() -> None:
        for _ in range(LAUNCHES):
            x.add_(1)

    yield Reading("launch", "one by one", timer.seconds(many) / LAUNCHES, "s")
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        many()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        many()
    yield Reading("launch", "in a graph", timer.seconds(graph.replay) / LAUNCHES, "s")
