"""Softmax of rows by native kernels, in three passes or two."""

from __future__ import annotations

import torch

from twofold.kernels.cpu import extension


def softmax(x: torch.Tensor, passes: int) -> torch.Tensor:
    """Softmax over the last dimension of x (float32, contiguous), on the calling thread. passes: 3 find the
    maximum first and compute exponentials twice; 2 keep them as mantissa and exponent (arXiv:2001.04438).

    ValueError for other numbers of passes, another type or layout.
    """
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"native softmax takes contiguous float32, not {x.dtype} with strides {x.stride()}")
    y = torch.empty_like(x)
    columns = x.shape[-1]
    extension().softmax(x.data_ptr(), y.data_ptr(), x.numel() // columns, columns, passes)
    return y
