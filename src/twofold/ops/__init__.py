"""The op vocabulary: shapes, formats and counted costs. One file per kind of op."""

from twofold.ops.attention import Attention, CacheWrite, Span, SpanTotals, total_spans
from twofold.ops.base import Cost, Op, Traffic
from twofold.ops.convolution import Conv2d
from twofold.ops.elementwise import (
    Activate,
    Add,
    AddNorm,
    Embedding,
    Gather,
    Norm,
    Pool,
    RotaryQKV,
    Sample,
    SigmoidGate,
    Softcap,
)
from twofold.ops.linear import (
    BitPlaneLinear,
    ExpertMLP,
    Linear,
    LookUpLinear,
    Route,
    SparseLinear,
    expected_touched,
)
from twofold.ops.movement import AllGather, AllReduce, AllToAll, Collective, Copy, MapPages, Send

__all__ = [
    "Activate",
    "Add",
    "AddNorm",
    "AllGather",
    "AllReduce",
    "AllToAll",
    "Attention",
    "BitPlaneLinear",
    "CacheWrite",
    "Collective",
    "Conv2d",
    "Copy",
    "Cost",
    "Embedding",
    "ExpertMLP",
    "Gather",
    "Linear",
    "LookUpLinear",
    "MapPages",
    "Norm",
    "Op",
    "Pool",
    "RotaryQKV",
    "Route",
    "Sample",
    "Send",
    "SigmoidGate",
    "Softcap",
    "Span",
    "SpanTotals",
    "SparseLinear",
    "Traffic",
    "expected_touched",
    "total_spans",
]
