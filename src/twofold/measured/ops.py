"""Measured figures as ops of the engine, so that what is predicted is what the engine charges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import twofold.models.quantised  # noqa: F401 - registers the formats of quantised checkpoints
from twofold.errors import nearest
from twofold.measured.gpus import LAYERS, split_name
from twofold.measured.linear_ops import LayerTimes, read_linear_ops
from twofold.measured.operators import (
    HOST_SECONDS,
    KINDS,
    ProductTimes,
    read_elements,
    read_matmul,
    read_products,
)
from twofold.ops.base import Op, Precision
from twofold.ops.elementwise import Activate, Add, Embedding, Norm, RotaryQKV, Sample
from twofold.ops.formats import get_format
from twofold.ops.linear import Linear

HEAD_DIM = 128
"""Of every model in the tables of layers."""
_HALF = 2


@dataclass(frozen=True, slots=True)
class Timed:
    """An op and what it took.

    device: of the catalogue; case: readable and unique in its table; operation: its name there; model: whose
    layer it is ("" for operators on their own); rows: of activations; seconds: as measured, of which `host`
    are the calling program's; resident: bytes of weights that the measurement went through again and again.
    """

    device: str
    case: str
    operation: str
    model: str
    op: Op
    rows: int
    seconds: float
    host: float = 0.0
    resident: int = 0

    @property
    def precision(self) -> str:
        """In which the op computes."""
        return self.op.compute if isinstance(self.op, Linear) else "fp16"


def layer_ops(path: Path) -> Iterator[Timed]:
    """The operations of a `linear-ops-` table."""
    device, model = split_name(path, "linear-ops-", LAYERS)
    repeated: dict[tuple[int, int, str], int] = {}
    for row in read_linear_ops(path, model):
        ops = _ops_of(row)
        resident = sum(op.weight_bytes for op in ops.values() if isinstance(op, Linear))
        for operation, seconds in row.seconds.items():
            key = row.tokens, row.tp, operation
            repeated[key] = repeated.get(key, 0) + 1
            again = f" ({repeated[key]})" if repeated[key] > 1 else ""
            case = f"{model} tp {row.tp}, {row.tokens} tokens, {operation}{again}"
            yield Timed(
                device, case, operation, model, ops[operation], row.tokens, seconds, resident=resident
            )


def _ops_of(row: LayerTimes) -> dict[str, Op]:
    """The operations of one row, as a device with 1 / tp of the model executes them."""
    tokens, tp, hidden, ffn = row.tokens, row.tp, row.hidden, row.ffn // row.tp
    heads, kv_heads = row.heads // tp, max(1, row.kv_heads // tp)
    norm = Norm(tokens, hidden, "rms", _HALF)
    return {
        "emb": Embedding(tokens, hidden, hidden * _HALF, _HALF),
        "input_layernorm": norm,
        "attn_pre_proj": _product(tokens, hidden, (heads + 2 * kv_heads) * HEAD_DIM),
        "attn_rope": RotaryQKV(tokens, heads, kv_heads, HEAD_DIM, HEAD_DIM, False, _HALF),
        "attn_post_proj": _product(tokens, heads * HEAD_DIM, hidden),
        "post_attention_layernorm": norm,
        "mlp_up_proj": _product(tokens, hidden, ffn * (2 if row.gated else 1)),
        "mlp_act": Activate(tokens, ffn, "silu", row.gated, _HALF),
        "mlp_down_proj": _product(tokens, ffn, hidden),
        "add": Add(tokens, hidden, _HALF),
    }


def _product(rows: int, depth: int, cols: int) -> Linear:
    return Linear(rows, depth, cols, "f16", depth * cols * _HALF, "fp16", _HALF)


def operator_ops(path: Path) -> Iterator[Timed]:
    """The operators of a `matmul-`, `gelu-`, `softmax-` or `layernorm-` table."""
    kind = path.name.partition("-")[0]
    device, _ = split_name(path, f"{kind}-")
    if kind == "matmul":
        for product in read_matmul(path):
            linear = _product(product.rows, product.depth, product.cols)
            case = f"matmul {product.rows} x {product.depth} x {product.cols}"
            yield Timed(
                device,
                case,
                kind,
                "",
                linear,
                product.rows,
                product.seconds,
                HOST_SECONDS[kind],
                linear.weight_bytes,
            )
        return
    for element in read_elements(path, next(k for k in KINDS if k == kind)):
        case = f"{kind} {element.rows} x {element.cols}"
        op = _elementwise(kind, element.rows, element.cols)
        yield Timed(device, case, kind, "", op, element.rows, element.seconds, HOST_SECONDS[kind])


def _elementwise(kind: str, rows: int, cols: int) -> Op:
    """The op that does the same work. A softmax in 16 bits reads and writes as many bytes as the choice of a
    token reads in 32, in as many passes."""
    if kind == "layernorm":
        return Norm(rows, cols, "layer", _HALF)
    if kind == "softmax":
        return Sample(rows, cols)
    return Activate(rows, cols, "gelu", False, _HALF)


def product_ops(path: Path) -> Iterator[Timed]:
    """The products of a `products-` table. ValueError for a precision or format that there is not."""
    device, _ = split_name(path, "products-")
    for product in read_products(path):
        if product.precision not in get_args(Precision):
            known = get_args(Precision)
            raise ValueError(
                f"{path.name}: unknown precision {product.precision!r}; {nearest(product.precision, known)}"
            )
        case = f"{product.rows} x {product.depth} x {product.cols} {product.format} {product.software}"
        yield Timed(device, case, "product", "", _stored(product), product.rows, product.seconds)


def _stored(product: ProductTimes) -> Linear:
    """The product with weights of its format; activations that are multiplied in fewer bits are rounded
    first, four operations each."""
    precision = cast(Precision, product.precision)
    stored = get_format(product.format)
    packed = stored.matmul is None
    rounded = not packed and stored.bits < 16
    flop = 2 * product.depth * product.cols if packed else 4 * product.rows * product.depth if rounded else 0
    return Linear(
        product.rows,
        product.depth,
        product.cols,
        product.format,
        stored.nbytes(product.cols, product.depth),
        precision,
        _HALF,
        vector_flop=flop,
    )
