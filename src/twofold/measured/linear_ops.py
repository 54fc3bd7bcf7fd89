"""Measured times of the linear-side operations of a layer, by token count and tensor parallelism.

A table is a CSV file `linear-ops-<gpu>-<model>.csv` in the columns of the Vidur project's compute profiles:
one row per token count and degree of tensor parallelism; times in milliseconds are medians of kernel times in
16 bits, which its profiler rounds to microseconds. The same layer runs again and again, all operations in
turn.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from twofold.errors import nearest

PATTERN = "linear-ops-*.csv"
OPERATIONS = (
    "emb", "input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm",
    "mlp_up_proj", "mlp_act", "mlp_down_proj", "add",
)  # fmt: skip
_SIZES = (
    "num_tokens", "num_tensor_parallel_workers", "n_embd", "n_expanded_embd", "n_head", "n_kv_head",
    "vocab_size", "use_gated_mlp",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """One row. model: what stands in the file's name after the GPU; hidden, ffn, heads, kv_heads, vocab: of
    the whole model, of which a device holds the share 1 / tp; seconds: by operation, those that were
    measured."""

    model: str
    tokens: int
    tp: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    gated: bool
    seconds: dict[str, float]


def find_linear_ops(folder: Path) -> list[Path]:
    """The tables in `folder`, sorted."""
    return sorted(folder.glob(PATTERN))


def read_linear_ops(path: Path, model: str) -> list[LayerTimes]:
    """The rows of a table of `model`. ValueError names the column or line that does not fit."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            given = list(reader.fieldnames or ())
            for name in (*_SIZES, *(f"{operation}_ms" for operation in OPERATIONS)):
                if name not in given:
                    raise ValueError(f"{path} has no column {name!r}; {nearest(name, given)}")
            rows = []
            for line, row in enumerate(reader, start=2):
                try:
                    rows.append(_row(row, model))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {line}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return rows


def _row(row: dict[str, str], model: str) -> LayerTimes:
    tokens, tp, hidden, ffn, heads, kv_heads, vocab = (int(row[name]) for name in _SIZES[:-1])
    if min(tokens, tp, hidden, ffn, heads, kv_heads, vocab) < 1:
        raise ValueError("sizes must be positive")
    times = {name: float(row[f"{name}_ms"]) * 1e-3 for name in OPERATIONS if row[f"{name}_ms"].strip()}
    return LayerTimes(
        model, tokens, tp, hidden, ffn, heads, kv_heads, vocab, row["use_gated_mlp"] == "True", times
    )
