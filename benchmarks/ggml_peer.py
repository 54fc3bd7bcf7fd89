"""ggml's own matrix-vector products as a measured peer: a process that answers one timing request per line.

`matvec_vs_ggml.py` starts it with the interpreter that has the libraries: package `libggml` (prebuilt), or
`llama_cpp` (what was compiled with it). They are called through ctypes: a graph of `ggml_mul_mat` nodes, one
after the other, on ggml's processor backend with a thread pool that stays.

Requests, each answered by one line (`{"error": …}` where it fails); files are raw arrays:

    {"do": "load", "package": NAME}                                  -> {"version": …, "features": …}
    {"do": "quantise", "type": N, "rows": R, "cols": C, "source": F32 FILE, "target": FILE} -> {"bytes": …}
    {"do": "make", "type": N, "rows": R, "cols": C, "weights": FILE, "x": F32 FILE, "copies": N, "nodes": N,
     "threads": N, "repack": true}                                   -> {"repacked": …}
    {"do": "time"}                                                   -> {"seconds": …}   of all nodes
    {"do": "result", "target": FILE}                                 -> {}               y of one node
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

Pointer, Size, Int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
LIBRARIES = {"libggml": ("libggml-python", "lib64"), "llama_cpp": ("llama-cpp-python", "lib")}
FEATURES = ("avx2", "fma", "f16c", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "neon")
F32 = 0


class InitParams(ctypes.Structure):
    """ggml_init_params: memory of a context that holds no data, only what describes tensors."""

    _fields_ = (("mem_size", Size), ("mem_buffer", Pointer), ("no_alloc", ctypes.c_bool))


class ThreadpoolParams(ctypes.Structure):
    """ggml_threadpool_params."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", Int),
        ("prio", Int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_log_set": (None, (Pointer, Pointer)),
    "ggml_init": (Pointer, (InitParams,)),
    "ggml_free": (None, (Pointer,)),
    "ggml_tensor_overhead": (Size, ()),
    "ggml_graph_overhead_custom": (Size, (Size, ctypes.c_bool)),
    "ggml_new_graph_custom": (Pointer, (Pointer, Size, ctypes.c_bool)),
    "ggml_new_tensor_2d": (Pointer, (Pointer, Int, ctypes.c_int64, ctypes.c_int64)),
    "ggml_mul_mat": (Pointer, (Pointer, Pointer, Pointer)),
    "ggml_build_forward_expand": (None, (Pointer, Pointer)),
    "ggml_row_size": (Size, (Int, ctypes.c_int64)),
    "ggml_quantize_chunk": (Size, (Int, Pointer, Pointer, *[ctypes.c_int64] * 3, Pointer)),
    "ggml_backend_cpu_init": (Pointer, ()),
    "ggml_backend_cpu_reg": (Pointer, ()),
    "ggml_backend_cpu_set_n_threads": (None, (Pointer, Int)),
    "ggml_backend_cpu_set_threadpool": (None, (Pointer, Pointer)),
    "ggml_backend_cpu_buffer_type": (Pointer, ()),
    "ggml_backend_reg_dev_get": (Pointer, (Pointer, Size)),
    "ggml_backend_reg_get_proc_address": (Pointer, (Pointer, ctypes.c_char_p)),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, (Pointer, Pointer)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (Pointer, (Pointer, Pointer)),
    "ggml_backend_buffer_free": (None, (Pointer,)),
    "ggml_backend_free": (None, (Pointer,)),
    "ggml_backend_tensor_set": (None, (Pointer, ctypes.c_char_p, Size, Size)),
    "ggml_backend_tensor_get": (None, (Pointer, Pointer, Size, Size)),
    "ggml_backend_graph_compute": (Int, (Pointer, Pointer)),
    "ggml_threadpool_params_default": (ThreadpoolParams, (Int,)),
    "ggml_threadpool_new": (Pointer, (ctypes.POINTER(ThreadpoolParams),)),
    "ggml_threadpool_free": (None, (Pointer,)),
    "ggml_threadpool_pause": (None, (Pointer,)),
    "ggml_threadpool_resume": (None, (Pointer,)),
}


class Peer:
    """The library, and the graph that was made last."""

    def load(self, package: str) -> dict[str, Any]:
        """Load the libraries of `package`."""
        distribution, folder = LIBRARIES[package]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ValueError(f"{sys.executable} has no package {package}")
        where = Path(spec.origin).parent / folder
        suffix = ".dylib" if sys.platform == "darwin" else ".so"
        libraries = [
            ctypes.CDLL(str(where / (n + suffix)), ctypes.RTLD_GLOBAL)
            for n in ("libggml-base", "libggml-cpu")
        ]
        self.calls: dict[str, Any] = {}
        for name, (result, arguments) in SIGNATURES.items():
            call = next(getattr(library, name) for library in libraries if hasattr(library, name))
            call.restype, call.argtypes = result, arguments
            self.calls[name] = call
        self.quiet = ctypes.CFUNCTYPE(None, Int, ctypes.c_char_p, Pointer)(lambda level, text, data: None)
        self._call("log_set", self.quiet, None)  # the attribute keeps the pointer alive
        self.graph: Any = None
        self.frees: list[tuple[str, Any]] = []
        has = [f for f in FEATURES if getattr(libraries[1], f"ggml_cpu_has_{f}", lambda: 0)()]
        return {"version": f"{distribution} {version(distribution)}", "features": has}

    def quantise(self, type: int, rows: int, cols: int, source: str, target: str) -> dict[str, Any]:
        """Blocks of `source` in ggml's format number `type`."""
        values = Path(source).read_bytes()
        out = ctypes.create_string_buffer(rows * self._call("row_size", type, cols))
        size = self._call("quantize_chunk", type, values, out, 0, rows, cols, None)
        Path(target).write_bytes(out.raw)
        return {"bytes": size}

    def make(
        self,
        type: int,
        rows: int,
        cols: int,
        weights: str,
        x: str,
        copies: int,
        nodes: int,
        threads: int,
        repack: bool,
    ) -> dict[str, Any]:
        """A graph of `nodes` products, over `copies` equal matrices in turn. repack: as llama.cpp does with
        weights, where ggml has a rearranged form of this format on this processor."""
        self._forget()
        matrix, vector = Path(weights).read_bytes(), Path(x).read_bytes()
        buft = self._repacked_type() if repack else None
        context = self._context(copies, 0)
        matrices = [self._call("new_tensor_2d", context, type, cols, rows) for _ in range(copies)]
        values = self._context(nodes + 1, nodes)
        right = self._call("new_tensor_2d", values, F32, cols, 1)
        graph = self._call("new_graph_custom", values, nodes + 8, False)
        if buft is not None and not self._repackable(buft, type, rows, cols):
            buft = None
        self._allocate(context, buft or self._call("backend_cpu_buffer_type"))
        for tensor in matrices:
            self._call("backend_tensor_set", tensor, matrix, 0, len(matrix))
        products = []
        for node in range(nodes):
            products.append(self._call("mul_mat", values, matrices[node % copies], right))
            self._call("build_forward_expand", graph, products[-1])
        self._allocate(values, self._call("backend_cpu_buffer_type"))
        self._call("backend_tensor_set", right, vector, 0, len(vector))
        backend = self._call("backend_cpu_init")
        self._call("backend_cpu_set_n_threads", backend, threads)
        params = self._call("threadpool_params_default", threads)
        self.pool = self._call("threadpool_new", ctypes.byref(params))
        self._call("backend_cpu_set_threadpool", backend, self.pool)
        self._call("threadpool_pause", self.pool)
        self.frees += [("threadpool_free", self.pool), ("backend_free", backend)]
        self.graph, self.backend, self.product, self.rows = graph, backend, products[-1], rows
        return {"repacked": buft is not None}

    def time(self) -> dict[str, Any]:
        """Seconds of the graph. Its threads sleep before and after."""
        self._call("threadpool_resume", self.pool)
        start = time.perf_counter()
        status = self._call("backend_graph_compute", self.backend, self.graph)
        seconds = time.perf_counter() - start
        self._call("threadpool_pause", self.pool)
        if status:
            raise ValueError(f"ggml_backend_graph_compute failed with {status}")
        return {"seconds": seconds}

    def result(self, target: str) -> dict[str, Any]:
        """The last node's values."""
        out = ctypes.create_string_buffer(4 * self.rows)
        self._call("backend_tensor_get", self.product, out, 0, 4 * self.rows)
        Path(target).write_bytes(out.raw)
        return {}

    def _call(self, name: str, *arguments: Any) -> Any:
        return self.calls[f"ggml_{name}"](*arguments)

    def _context(self, tensors: int, nodes: int) -> Any:
        size = (tensors + nodes + 8) * self._call("tensor_overhead")
        size += self._call("graph_overhead_custom", nodes + 8, False) if nodes else 0
        context = self._call("init", InitParams(size, None, True))
        self.frees.append(("free", context))
        return context

    def _allocate(self, context: Any, buft: Any) -> None:
        buffer = self._call("backend_alloc_ctx_tensors_from_buft", context, buft)
        if not buffer:
            raise MemoryError("ggml cannot allocate its tensors")
        self.frees.append(("backend_buffer_free", buffer))

    def _device(self) -> Any:
        return self._call("backend_reg_dev_get", self._call("backend_cpu_reg"), 0)

    def _repacked_type(self) -> Any:
        """The buffer type that rearranges weights, or None. Others (AMX …) come first in the list where there
        are any, as llama.cpp tries them."""
        found = self._call(
            "backend_reg_get_proc_address", self._call("backend_cpu_reg"), b"ggml_backend_dev_get_extra_bufts"
        )
        if not found:
            return None
        types = ctypes.CFUNCTYPE(ctypes.POINTER(Pointer), Pointer)(found)(self._device())
        return types[0] if types and types[0] else None

    def _repackable(self, buft: Any, type: int, rows: int, cols: int) -> bool:
        """Whether ggml multiplies such a matrix where it lies in memory of that type."""
        weights, rest = self._context(1, 0), self._context(2, 0)
        matrix = self._call("new_tensor_2d", weights, type, cols, rows)
        self._allocate(weights, buft)
        product = self._call("mul_mat", rest, matrix, self._call("new_tensor_2d", rest, F32, cols, 1))
        return bool(self._call("backend_dev_supports_op", self._device(), product))

    def _forget(self) -> None:
        for name, it in reversed(self.frees):
            self._call(name, it)
        self.frees.clear()


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request)
        except Exception as error:  # every fault belongs to the one who asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
