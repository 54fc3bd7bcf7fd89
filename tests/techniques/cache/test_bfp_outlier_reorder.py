"""Block floating point: the format by its definition, the order of channels, and what sorting gains."""

from __future__ import annotations

import math

import pytest
import torch
from tests.tiny import tiny_checkpoint, tiny_engine

from twofold.models.attention import AttentionBlock
from twofold.models.cache import CacheSize, Heads
from twofold.techniques.cache.bfp_cache import BfpCache
from twofold.techniques.cache.bfp_outlier_reorder import BfpOutlierReorder, channel_order
from twofold.techniques.cache.block_floats import decode, encode
from twofold.techniques.registry import make_technique

HEADS = Heads(4, 2, 16, 16, 0.25, None, None, "fp32", 4)


def slowly(x: list[float], bits: int) -> list[float]:
    """A block by the definition."""
    largest = max(map(abs, x))
    if largest == 0:
        return [0.0] * len(x)
    step, top = 2.0 ** (math.floor(math.log2(largest)) - bits + 2), 2 ** (bits - 1) - 1
    return [step * max(-top, min(top, round(v / step))) for v in x]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 3e4])
def test_format_equals_its_definition(bits: int, size: float) -> None:
    x = torch.randn(20, 3, 8, generator=torch.Generator().manual_seed(bits)) * size
    x[0, 0] = 0
    x[1, 1, 0] = 4 * size  # a power of two is the largest
    got = decode(encode(x, bits), bits)
    wanted = torch.tensor([[slowly(block.tolist(), bits) for block in row] for row in x])
    assert torch.equal(got, wanted)


def test_format_takes_what_is_not_finite() -> None:
    x = torch.tensor([[1.0, float("nan"), float("inf"), -2.0]])
    assert decode(encode(x, 4), 4).tolist() == [[1.0, 0.0, 0.0, -2.0]]


def cache_of(order: torch.Tensor | None, block: int = 8) -> BfpCache:
    cache = BfpCache(HEADS, 16, (4, 8), block, order, {"entries_packed": 0})
    cache.allocate(CacheSize(3, 16, 2), torch.device("cpu"))
    return cache


def test_sorted_blocks_keep_outliers_away_from_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    loud = torch.tensor([3, 11])
    k, v = (torch.randn(20, 2, 16, generator=generator) for _ in "kv")
    k[..., loud] *= 30
    rest = [c for c in range(16) if c not in loud.tolist()]
    order = torch.tensor([*loud.tolist(), *rest]).expand(2, -1)
    slots, errors = torch.arange(5, 25), []
    for o in (None, order):
        cache = cache_of(o)
        cache.store(slots, k, v)
        got, values = cache.load(slots)
        assert torch.equal(cache.load_keys(slots), got.permute(1, 2, 0))
        assert (values - v).abs().max() < 0.04
        errors.append(float((got - k)[..., rest].square().mean()))
    assert errors[1] < 0.6 * errors[0]


def test_order_only_says_which_channels_share_a_block() -> None:
    k = torch.randn(6, 2, 16)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    cache, slots = cache_of(order), torch.arange(6)
    cache.store(slots, k, k)
    wanted = torch.empty_like(k)
    for head in range(2):
        for at in range(0, 16, 8):
            channels = order[head, at : at + 8]
            wanted[:, head, channels] = decode(encode(k[:, head, channels].unsqueeze(1), 4), 4)[:, 0]
    assert torch.equal(cache.load(slots)[0], wanted)
    assert cache.allocated == 3 * cache.block_bytes()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_channels_come_by_the_norm_of_their_weights(family: str) -> None:
    spec = tiny_checkpoint(family).spec
    attention = tiny_engine(family).runner.model.layers[0].attention
    assert isinstance(attention, AttentionBlock)
    order = channel_order(attention, 4)
    assert order.sort(1).values.tolist() == [list(range(spec.head_dim))] * spec.num_kv_heads
    first = spec.num_heads * spec.head_dim
    norms = attention.qkv.widen(torch.float32)[first : first + spec.kv_dim].norm(dim=1)
    norms = norms.view(spec.num_kv_heads, -1)
    if attention.k_norm is not None:
        norms = norms * attention.k_norm
    if spec.positions != "rope":
        assert attention.qkv_bias is not None
        bias = attention.qkv_bias[first : first + spec.kv_dim].view_as(norms)
        energy = norms.square() + bias.square()
        assert torch.equal(order, energy.argsort(dim=1, descending=True, stable=True))
        return
    half = spec.rope_dim // 2
    blocks = order.view(spec.num_kv_heads, -1, 2, 4)
    assert bool((blocks[:, :, 1] - blocks[:, :, 0] == half).all()), (
        "pairs lie in two blocks, at the same place"
    )
    energy = norms.square()[:, :half] + norms.square()[:, half : 2 * half]
    sorted_energy = energy.gather(1, blocks[:, :, 0].flatten(1))
    assert bool((sorted_energy.diff(dim=1) <= 1e-6).all())


def test_the_engine_sorts_unless_told_otherwise() -> None:
    for sort in (True, False):
        use = {"name": "bfp-outlier-reorder", "params": {"block": 8, "sort": sort}}
        caches = tiny_engine(techniques=[use]).runner.model.caches
        assert all((cache.order is not None) == sort for cache in caches)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"key_mantissa": 5}, "key_mantissa must be 4 or 8, not 5; use 4"),
        ({"block": 7}, "block must be a positive even number"),
    ],
)
def test_parameters_are_checked(params: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("bfp-outlier-reorder", params)


def test_heads_must_divide_into_blocks() -> None:
    with pytest.raises(ValueError, match="is not a multiple of block=48; use block=16"):
        BfpOutlierReorder(block=48).check(tiny_checkpoint("llama").spec)
