"""Attention of models against its I/O bound."""

from __future__ import annotations

import pytest

from twofold.analysis.attention_io import attention_io, head_shape, over_caches
from twofold.analysis.traffic_pictures import pictures
from twofold.devices.catalog import get_device
from twofold.models.catalog import get_spec
from twofold.ops.io_bound import compulsory, flash_attention_2

SPEC = get_spec("llama-3.1-8b")


def test_the_engine_counts_what_is_compulsory() -> None:
    found = attention_io(SPEC, "bf16", 4096, 50e6)
    assert found.counted == compulsory(head_shape(SPEC, 4096)) * 8 * 2 == found.bound
    assert found.flop == pytest.approx(4 * 32 * 128 * 4096 * 4097 / 2)
    assert found.flash_2 == flash_attention_2(head_shape(SPEC, 4096), 25_000_000) * 8 * 2


def test_a_small_cache_lifts_the_bound_above_what_is_counted() -> None:
    found = attention_io(SPEC, "bf16", 65536, 227 * 1024)
    assert found.counted < found.bound < found.flash_2 < found.flash
    assert found.flash_2 / found.bound < 5
    assert found.intensity == pytest.approx(4 * (227 * 512) / 128 / 2)


def test_ways_cross_where_the_cache_holds_d_squared() -> None:
    found = over_caches(SPEC, "bf16", 8192)
    bound = [y for _, y in found["I/O bound"]]
    assert bound == sorted(bound, reverse=True)
    for name, points in found.items():
        assert all(y >= low for (_, y), low in zip(points, bound, strict=True)), name
    first, last = found["two tiled products"][0][1], found["two tiled products"][-1][1]
    assert first < found["FlashAttention-2"][0][1]
    assert last > found["FlashAttention-2"][-1][1]


def test_pictures_show_the_bound() -> None:
    rows = [attention_io(SPEC, "bf16", n, 227 * 1024) for n in (1024, 16384)]
    drawn = pictures(rows, over_caches(SPEC, "bf16", 16384), 16384, get_device("h100-sxm"), "bf16")
    assert [picture.title for picture in drawn] == ["Traffic over the cache", "Roofline"]
    assert all("I/O bound" in picture.svg for picture in drawn)


def test_what_the_bound_does_not_describe_says_so() -> None:
    with pytest.raises(ValueError, match="caches one latent"):
        head_shape(get_spec("deepseek-v3"), 1024)
    with pytest.raises(ValueError, match="see a window of 4096"):
        head_shape(get_spec("mistral-7b"), 1024)
    with pytest.raises(ValueError, match="takes 1 to 131,072"):
        head_shape(SPEC, 200_000)
