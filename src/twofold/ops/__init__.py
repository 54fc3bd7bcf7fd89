"""The op vocabulary: shapes, formats and counted costs. One file per kind of op."""

from twofold.ops.attention import Attention, CacheWrite, Span, SpanTotals, total_spans
from twofold.ops.base import Cost, Op, Traffic
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
from twofold.ops.linear import ExpertMLP, Linear, Route, expected_touched
from twofold.ops.movement import AllGather, AllReduce, AllToAll, Collective, Copy, Send

__all__ = [
    "Activate",
    "Add",
    "AddNorm",
    "AllGather",
    "AllReduce",
    "AllToAll",
    "Attention",
    "CacheWrite",
    "Collective",
    "Copy",
    "Cost",
    "Embedding",
    "ExpertMLP",
    "Gather",
    "Linear",
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
    "Traffic",
    "expected_touched",
    "total_spans",
]
