"""Plots of attention against its I/O bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twofold.analysis.attention_io import AttentionIO
from twofold.devices.precision import WIDER
from twofold.devices.schema import DeviceFile
from twofold.ops.base import Precision
from twofold.report.curves import Curve, curves
from twofold.report.pictures import Picture
from twofold.report.plots import Point
from twofold.report.roofline import roofline


def pictures(
    rows: Sequence[AttentionIO],
    over_caches: Mapping[str, Curve],
    context: int,
    file: DeviceFile,
    precision: Precision,
) -> list[Picture]:
    """Traffic over the cache for prompts of `context` tokens, and the roofline of `file` with the bound in
    it."""
    bound = {name: points for name, points in over_caches.items() if name == "I/O bound"}
    ways = {name: points for name, points in over_caches.items() if name not in bound}
    used = next((p for p in (precision, *WIDER[precision]) if p in file.matmul), None)
    rate = file.matmul[used].value if used else file.vector.value
    bandwidth = file.memory.bandwidth.value
    series = {
        name: [
            Point(f"{row.context:,}", x, min(rate, bandwidth * x) / 1e9)
            for row in rows
            for x in (row.flop / getattr(row, field),)
        ]
        for name, field in (("FlashAttention-2", "flash_2"), ("FlashAttention", "flash"))
    }
    most = max(row.intensity for row in rows)
    return [
        Picture(
            "Traffic over the cache",
            f"Bytes that one layer's attention over {context:,} tokens moves, without a mask. "
            "FlashAttention stays "
            "within a constant factor of the bound down to d² elements; below, products of tiles that keep "
            "the scores "
            "in memory move less.",
            curves(ways, x="bytes of cache", y="bytes moved", name="traffic", bounds=bound, unit="B"),
        ),
        Picture(
            "Roofline",
            f"Attention under the datasheet's peaks of {file.name}, by length of the prompt. Right of the "
            "vertical "
            "line no exact attention of these prompts can come.",
            roofline(
                series,
                {"memory": bandwidth / 1e9},
                {used or "fp32": rate / 1e9},
                limits={"I/O bound": most},
                name="attention-roofline",
            ),
        ),
    ]
