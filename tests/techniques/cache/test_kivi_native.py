"""Native kernels over a KIVI cache: what they compute and what they store equals the reference, step by
step."""

from __future__ import annotations

import pytest
import torch
from tests.techniques.cache.harness import BLOCK, KV_HEADS, MAX_SEQS, NUM_BLOCKS, entries, make_heads

from twofold.devices.cpu_device import CpuDevice
from twofold.devices.torch_device import TorchDevice
from twofold.kernels.cpu import native
from twofold.models.cache import CacheSize
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.cache.kivi import KiviScheme
from twofold.techniques.cache.kivi_cache import KiviCache

pytestmark = pytest.mark.skipif(native() is None, reason="the native kernels are not built")

DRAFTS = 9
Turn = tuple[int, int, int, int]
"""A sequence's part of a step: row, first entry, end, and how many of the last are drafts."""


def make(bits: int, group: int, residual: int, dim: int, window: int | None, block: int = BLOCK) -> KiviCache:
    cache = KiviScheme(bits, group, residual).cache_layer(make_heads(window, dim), block, 0)
    assert isinstance(cache, KiviCache)
    cache.max_drafts = DRAFTS
    cache.allocate(CacheSize(NUM_BLOCKS, block, MAX_SEQS), torch.device("cpu"))
    return cache


def step_of(turns: list[Turn], block: int) -> StepInput:
    """Sequences in blocks that alternate between rows."""
    each = NUM_BLOCKS // MAX_SEQS
    spans = [Span(end - start, end) for _, start, end, _ in turns]
    tables = [[row + MAX_SEQS * i for i in range(each)] for row, *_ in turns]
    return StepInput(
        spans,
        sum(s.queries for s in spans),
        0,
        rows=[t[0] for t in turns],
        drafts=[t[3] for t in turns],
        block_tables=tables,
        block_size=block,
    )


STEPS: list[tuple[list[Turn], list[int]]] = [
    ([(0, 0, 50, 0), (2, 0, 3, 0)], []),  # prompts
    ([(0, 50, 51, 0), (2, 3, 90, 0), (1, 0, 25, 0)], []),  # a chunk among them
    ([(0, 51, 60, 8), (2, 90, 91, 0), (1, 25, 35, 9)], [56, 91, 26]),  # drafts: some, none and none right
    ([(0, 56, 57, 0), (1, 26, 27, 0), (2, 91, 101, 9)], [57, 27, 101]),  # all right
    *(([(0, 57 + i, 58 + i, 0), (1, 27 + i, 28 + i, 0), (2, 101 + i, 102 + i, 0)], []) for i in range(60)),
]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("group", "residual", "dim", "window", "block"),
    [(32, 64, 64, None, 32), (8, 24, 16, None, 16), (16, 16, 32, 40, 16), (48, 48, 48, None, 48)],
)
def test_equals_the_reference(
    bits: int, group: int, residual: int, dim: int, window: int | None, block: int
) -> None:
    plain, fast = (make(bits, group, residual, dim, window, block) for _ in range(2))
    devices = TorchDevice("cpu"), CpuDevice(kernels="native-fp32", threads=1 + bits // 8)
    data = [entries(200, seed, dim) for seed in range(MAX_SEQS)]
    generator = torch.Generator().manual_seed(9)
    for turns, kept in STEPS:
        k = torch.cat([data[row][0][start:end] for row, start, end, _ in turns])
        v = torch.cat([data[row][1][start:end] for row, start, end, _ in turns])
        q = torch.randn(len(k), 4, dim, generator=generator)
        outs = []
        for cache, device in zip((plain, fast), devices, strict=True):
            device.begin_step()
            step = step_of(turns, block)
            outs.append(cache.attend(device, step, q, k, v))
            device.end_step()
            for turn, end, table in zip(turns, kept, step.block_tables, strict=bool(kept)):
                if turn[3]:
                    cache.commit(turn[0], end, table)
        assert outs[0] is not None
        assert outs[1] is not None
        torch.testing.assert_close(outs[1], outs[0], rtol=2e-4, atol=2e-4)
        assert torch.equal(plain.lengths, fast.lengths)
    assert not devices[1].reference_ops, "a reference kernel was used"
    for name, tensor in plain.tensors.items():
        same = (tensor == fast.tensors[name]).float().mean()
        # A number in the middle between two codes may go either way with the order of the arithmetic.
        assert same == 1 if not name.endswith("codes") else same > 0.999, name


def test_group_sizes_that_native_kernels_do_not_take_fall_back() -> None:
    cache = make(4, 8, 24, 16, None, block=24)  # blocks of 24 tokens: no multiple of 16
    device = CpuDevice(kernels="native-fp32", threads=1)
    k, v = entries(30)
    device.begin_step()
    out = cache.attend(device, step_of([(0, 0, 30, 0)], 24), torch.randn(30, 4, 16), k, v)
    assert out is not None
    assert out.shape == (30, 4 * 16)
    assert device.reference_ops == {"Attention": 1, "CacheWrite": 1}
    assert KV_HEADS * 2 == 4
