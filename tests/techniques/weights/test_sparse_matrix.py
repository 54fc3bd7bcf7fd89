"""Sparse matrices: bytes, values, and products by reference and native kernels against dense ones."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from twofold.devices.cpu_device import CpuDevice
from twofold.kernels.cpu import native
from twofold.techniques.weights.sparse_linear import sparse_linear
from twofold.techniques.weights.sparse_matrix import SparseMatrix, pack_sparse


def counters() -> dict[str, int]:
    return {"products": 0, "weights_skipped": 0}


def some(count: int, of: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(of, generator=generator)[:count].sort().values


def random_keep(rows: int, cols: int, kept: int, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.rand(rows, cols, generator=generator).topk(kept).indices
    return torch.zeros(rows, cols, dtype=torch.bool).scatter_(1, chosen, True)


def example(kind: str, cols: int = 96) -> tuple[SparseMatrix, torch.Tensor]:
    """A matrix of each kind, and the dense one that it stands for."""
    generator = torch.Generator().manual_seed(cols)
    weight = torch.randn(60, cols, generator=generator).half().float()
    everything = torch.arange(cols)
    if kind == "masked":
        keep = random_keep(60, cols, cols // 3, generator)
        return pack_sparse(weight, [everything], 60, counters(), keep=keep), weight * keep
    outputs = some(40, 60, generator) if kind == "outputs" else None
    rows = torch.arange(60) if outputs is None else outputs
    inputs = [some(count, cols, generator) for count in (24, 0, 40, 8)]
    dense = torch.zeros_like(weight)
    size = len(rows) // 4
    keep = torch.zeros(60, cols, dtype=torch.bool) if kind == "both" else None
    for mine, columns in zip(rows.split(size), inputs, strict=True):
        if keep is not None and len(columns):
            half = random_keep(size, len(columns), len(columns) // 2, generator)
            keep[mine[:, None], columns] = half
        dense[mine[:, None], columns] = weight[mine[:, None], columns]
    if keep is not None:
        dense = dense * keep
    return pack_sparse(weight, inputs, size, counters(), outputs=outputs, keep=keep), dense


KINDS = ("masked", "tiles", "outputs", "both")


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_bytes(kind: str) -> None:
    matrix, dense = example(kind)
    assert torch.equal(matrix.widen(torch.float32), dense)
    assert matrix.allocated == matrix.nbytes
    assert matrix.pattern.kept == int((dense != 0).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_reference_multiplies_only_what_is_kept(kind: str) -> None:
    matrix, dense = example(kind)
    x, bias = torch.randn(7, 96), torch.randn(60)
    op = matrix.op(7, "fp32")
    with FlopCounterMode(display=False) as counter:
        y = sparse_linear(op, x, matrix, bias)
    assert torch.allclose(y, x @ dense.T + bias, atol=1e-4)
    assert counter.get_total_flops() == op.cost().flop == 2 * 7 * int((dense != 0).sum())
    assert matrix.counters["weights_skipped"] == dense.numel() - matrix.pattern.kept


@pytest.mark.skipif(native() is None, reason="native kernels are not installed")
@pytest.mark.parametrize("tokens", [1, 3, 8, 9, 33, 70])
@pytest.mark.parametrize("cols", [72, 96, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_native_equals_dense(kind: str, cols: int, tokens: int) -> None:
    matrix, dense = example(kind, cols)
    generator = torch.Generator().manual_seed(tokens)
    x, bias = torch.randn(tokens, cols, generator=generator), torch.randn(60, generator=generator)
    op = matrix.op(tokens, "fp32")
    module = native()
    before = module.isa()
    try:
        for isa in module.supported_isas():
            module.use_isa(isa)
            device = CpuDevice(kernels="native", threads=2)
            for shift in (None, bias):
                got = device.execute(op, x, matrix, shift)
                wanted = x @ dense.T + (0 if shift is None else shift)
                assert torch.allclose(got, wanted, atol=1e-4), isa
            assert not device.reference_ops
    finally:
        module.use_isa(before)
