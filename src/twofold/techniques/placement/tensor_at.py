"""A tensor over memory that torch did not allocate, at addresses that may have nothing behind them yet.

It goes through DLPack, which takes the device as given; the CUDA array interface would ask the driver what
lies at the address. Layouts: dlpack.h, DLManagedTensor.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import ClassVar

import torch
from torch.utils.dlpack import from_dlpack

_CPU, _CUDA, _UINT = 1, 2, 1
_NAME = b"dltensor"  # a capsule keeps the address of its name
_KEPT: dict[int, tuple[object, ...]] = {}
"""By the address of a DLManagedTensor: it, its shape, and what must live as long as the tensor does."""


class _Tensor(ctypes.Structure):
    """DLManagedTensor, with the DLTensor that it begins with."""

    _fields_: ClassVar = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
        ("context", c_void_p),
        ("deleter", c_void_p),
    ]


def _forget(managed: int) -> None:
    _KEPT.pop(managed, None)


_delete = ctypes.CFUNCTYPE(None, c_void_p)(_forget)
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.argtypes, _capsule.restype = [c_void_p, ctypes.c_char_p, c_void_p], ctypes.py_object


def tensor_at(address: int, nbytes: int, where: torch.device, *, keep: object) -> torch.Tensor:
    """The `nbytes` bytes from `address` on, on the device `where`: uint8 [nbytes]. keep: lives as long as the
    tensor or any view of it."""
    shape = (c_int64 * 1)(nbytes)
    managed = _Tensor(
        address,
        _CUDA if where.type == "cuda" else _CPU,
        where.index or 0,
        1,
        _UINT,
        8,
        1,
        shape,
        None,
        0,
        None,
        ctypes.cast(_delete, c_void_p),
    )
    at = ctypes.addressof(managed)
    _KEPT[at] = managed, shape, keep
    found: torch.Tensor = from_dlpack(_capsule(at, _NAME, None))
    return found
