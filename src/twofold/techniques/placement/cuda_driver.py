"""The virtual memory calls of the CUDA driver API, by ctypes: addresses are reserved, memory is created, and
the one is mapped to the other.

Source: cuda.h and the chapter on virtual memory management of the CUDA Driver API. Of each mapping all is
unmapped at once; a new one can be neither read nor written before it is given access; memory goes back once
its handle is released and it is mapped nowhere. None of these calls needs a current context, so that any
thread may make them.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint64, c_ushort, c_void_p
from typing import Any, ClassVar

_SUCCESS = 0
_PINNED = 1  # CU_MEM_ALLOCATION_TYPE_PINNED
_ON_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE
_READ_WRITE = 3  # CU_MEM_ACCESS_FLAGS_PROT_READWRITE
_MINIMUM = 0  # CU_MEM_ALLOC_GRANULARITY_MINIMUM


class _Location(ctypes.Structure):
    _fields_: ClassVar = [("type", c_int), ("id", c_int)]


class _Flags(ctypes.Structure):
    _fields_: ClassVar = [
        ("compression", c_ubyte),
        ("rdma", c_ubyte),
        ("usage", c_ushort),
        ("reserved", c_ubyte * 4),
    ]


class _Properties(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_: ClassVar = [
        ("type", c_int),
        ("handle_types", c_int),
        ("location", _Location),
        ("win32", c_void_p),
        ("flags", _Flags),
    ]


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_: ClassVar = [("location", _Location), ("flags", c_int)]


_CALLS: dict[str, list[Any]] = {
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuMemGetAllocationGranularity": [POINTER(c_size_t), POINTER(_Properties), c_int],
    "cuMemAddressReserve": [POINTER(c_uint64), c_size_t, c_size_t, c_uint64, c_uint64],
    "cuMemAddressFree": [c_uint64, c_size_t],
    "cuMemCreate": [POINTER(c_uint64), c_size_t, POINTER(_Properties), c_uint64],
    "cuMemRelease": [c_uint64],
    "cuMemMap": [c_uint64, c_size_t, c_size_t, c_uint64, c_uint64],
    "cuMemSetAccess": [c_uint64, c_size_t, POINTER(_Access), c_size_t],
    "cuMemUnmap": [c_uint64, c_size_t],
}


class CudaError(RuntimeError):
    """A call of the driver has failed. name: of the error, as cuda.h has it."""

    def __init__(self, call: str, name: str) -> None:
        super().__init__(f"{call}: {name}")
        self.name = name


class Driver:
    """The calls for memory on device number `device`, which the process has initialised. Addresses, sizes
    and offsets are in bytes, all of them multiples of `granularity`. CudaError where a call fails;
    ValueError where `library` is not there.
    """

    def __init__(self, device: int, library: str = "libcuda.so.1") -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise ValueError(f"mapping pages on a GPU needs the CUDA driver: {error}") from None
        for name, arguments in _CALLS.items():
            call = getattr(self._library, name)
            call.argtypes, call.restype = arguments, c_int
        where = _Location(_ON_DEVICE, device)
        self._properties = _Properties(type=_PINNED, location=where)
        self._access = _Access(where, _READ_WRITE)

    def granularity(self) -> int:
        """The least that can be mapped, and what sizes and addresses must be multiples of."""
        found = c_size_t()
        self._do("cuMemGetAllocationGranularity", byref(found), byref(self._properties), _MINIMUM)
        return found.value

    def reserve(self, nbytes: int) -> int:
        """The first of `nbytes` addresses with nothing behind them."""
        address = c_uint64()
        self._do("cuMemAddressReserve", byref(address), nbytes, 0, 0, 0)
        return address.value

    def free(self, address: int, nbytes: int) -> None:
        """Give addresses back, as they were reserved."""
        self._do("cuMemAddressFree", address, nbytes)

    def create(self, nbytes: int) -> int:
        """The handle of `nbytes` of memory that appears nowhere yet."""
        handle = c_uint64()
        self._do("cuMemCreate", byref(handle), nbytes, byref(self._properties), 0)
        return handle.value

    def release(self, handle: int) -> None:
        """Let memory go once it appears nowhere."""
        self._do("cuMemRelease", handle)

    def map(self, address: int, nbytes: int, handle: int) -> None:
        """Let memory of `nbytes` appear at `address`, where nothing may be."""
        self._do("cuMemMap", address, nbytes, 0, handle, 0)

    def open(self, address: int, nbytes: int) -> None:
        """Let the device read and write what is mapped there, mapping by mapping."""
        self._do("cuMemSetAccess", address, nbytes, byref(self._access), 1)

    def unmap(self, address: int, nbytes: int) -> None:
        """Let a mapping, all of it, appear no longer."""
        self._do("cuMemUnmap", address, nbytes)

    def _do(self, call: str, *arguments: Any) -> None:
        code = getattr(self._library, call)(*arguments)
        if code != _SUCCESS:
            name = c_char_p()
            self._library.cuGetErrorName(code, byref(name))
            raise CudaError(call, f"error {code}" if name.value is None else name.value.decode())
