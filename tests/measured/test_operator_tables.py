"""Tables of operators: read, named after devices of the catalogue, turned into ops; what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.measured.gpus import split_name
from twofold.measured.linear_ops import OPERATIONS, read_linear_ops
from twofold.measured.operators import COLUMNS, read_elements, read_matmul, read_products
from twofold.measured.ops import layer_ops, operator_ops, product_ops
from twofold.ops import Activate, Linear, Norm
from twofold.ops.elementwise import RotaryQKV

SIZES = {
    "n_head": 32,
    "n_kv_head": 8,
    "n_embd": 4096,
    "n_expanded_embd": 14336,
    "vocab_size": 128256,
    "use_gated_mlp": True,
    "num_tokens": 16,
    "num_tensor_parallel_workers": 2,
}


def layers(folder: Path, name: str = "linear-ops-h100-llama3-8b.csv", **changed: object) -> Path:
    values = {f"{operation}_ms": 0.25 for operation in OPERATIONS} | SIZES | changed
    path = folder / name
    lines = [",".join(values), *([",".join(str(value) for value in values.values())] * 2)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_layer_becomes_the_ops_of_one_rank(tmp_path: Path) -> None:
    ops = list(layer_ops(layers(tmp_path)))
    assert len({timed.case for timed in ops}) == 2 * len(OPERATIONS)
    by_name = {timed.operation: timed for timed in ops}
    shapes = {
        name: (timed.op.in_features, timed.op.out_features)
        for name, timed in by_name.items()
        if isinstance(timed.op, Linear)
    }
    assert shapes == {
        "attn_pre_proj": (4096, (16 + 2 * 4) * 128),
        "attn_post_proj": (2048, 4096),
        "mlp_up_proj": (4096, 14336),
        "mlp_down_proj": (7168, 4096),
    }
    assert by_name["input_layernorm"].op == Norm(16, 4096, "rms", 2)
    assert by_name["mlp_act"].op == Activate(16, 7168, "silu", True, 2)
    assert isinstance(by_name["attn_rope"].op, RotaryQKV)
    assert by_name["add"].seconds == pytest.approx(0.25e-3)
    weights = sum(2 * depth * cols for depth, cols in shapes.values())
    assert by_name["emb"].resident == weights


def test_a_rank_holds_at_least_one_key_value_head(tmp_path: Path) -> None:
    (pre, *_) = [
        t for t in layer_ops(layers(tmp_path, num_tensor_parallel_workers=16)) if "pre" in t.operation
    ]
    assert isinstance(pre.op, Linear)
    assert pre.op.out_features == (2 + 2 * 1) * 128


@pytest.mark.parametrize(
    ("name", "device", "rest"),
    [
        ("linear-ops-h100-llama3-8b.csv", "h100-sxm", "llama3-8b"),
        ("linear-ops-l40s-yi-34b.csv", "l40s", "yi-34b"),
        ("linear-ops-rtx-4090-llama3-8b.csv", "rtx-4090", "llama3-8b"),
        ("linear-ops-a40-llama2-7b.csv", "a40", "llama2-7b"),
    ],
)
def test_files_are_named_after_devices(name: str, device: str, rest: str) -> None:
    assert split_name(Path(name), "linear-ops-") == (device, rest)


def test_an_unknown_gpu_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'h100'"):
        split_name(Path("linear-ops-h1oo-llama.csv"), "linear-ops-")


def test_tables_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2.*positive"):
        read_linear_ops(layers(tmp_path, num_tokens=0), "x")
    path = layers(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("n_embd", "n_emb"), encoding="utf-8")
    with pytest.raises(ValueError, match="no column 'n_embd'; did you mean 'n_emb'"):
        read_linear_ops(path, "x")
    with pytest.raises(ValueError, match="cannot be read"):
        read_linear_ops(tmp_path / "absent.csv", "x")
    bad = tmp_path / "matmul-a100.csv"
    bad.write_text("64, 64\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        read_matmul(bad)


def test_single_operators(tmp_path: Path) -> None:
    matmul, gelu = tmp_path / "matmul-a100.csv", tmp_path / "gelu-a100.csv"
    matmul.write_text("64, 128, 256, 0.5ms, 1Tflops\n", encoding="utf-8")
    gelu.write_text("1000, 0.5\n", encoding="utf-8")
    (product,) = operator_ops(matmul)
    assert isinstance(product.op, Linear)
    assert (product.rows, product.op.in_features, product.op.out_features) == (64, 128, 256)
    assert (product.seconds, product.host) == (0.5e-3, 21e-6)
    assert read_elements(gelu, "gelu")[0].seconds == pytest.approx(2e-6)
    (element,) = operator_ops(gelu)
    assert element.op == Activate(1, 1000, "gelu", False, 2)


def test_products_in_any_precision(tmp_path: Path) -> None:
    path = tmp_path / "products-h200-sxm.csv"
    rows = ["8,512,1024,fp8,fp8,1e-5,vllm", "8,512,1024,bf16,int4-g128-zero,1e-5,trtllm"]
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")
    rounded, packed = (timed.op for timed in product_ops(path))
    assert isinstance(rounded, Linear)
    assert isinstance(packed, Linear)
    assert rounded.vector_flop == 4 * 8 * 512
    assert packed.weight_bytes < 512 * 1024
    assert packed.vector_flop == 2 * 512 * 1024
    path.write_text("\n".join([",".join(COLUMNS), "8,512,1024,fp9,fp8,1e-5,vllm"]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="fp9"):
        list(product_ops(path))
    path.write_text("rows,depth\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column 'cols'"):
        read_products(path)
