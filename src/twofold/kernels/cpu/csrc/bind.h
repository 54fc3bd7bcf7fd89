// Each family of ops binds itself to the module. Pointers cross as integers (tensor.data_ptr()); the Python side of
// each family checks dtype, shape and contiguity before it passes them.
//
// An op is bound with `nb::call_guard<nb::gil_scoped_release>()`, so that other Python threads (a server's) go on while
// it runs; its phases hold plain pointers and numbers and never touch Python.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace twofold {

void bind_stream(nanobind::module_& m);
void bind_matmul(nanobind::module_& m);
void bind_blocks(nanobind::module_& m);
void bind_planes(nanobind::module_& m);
void bind_pairs(nanobind::module_& m);
void bind_elementwise(nanobind::module_& m);
void bind_attention(nanobind::module_& m);
void bind_entries(nanobind::module_& m);
void bind_graph(nanobind::module_& m);
void bind_hamming(nanobind::module_& m);
void bind_prefill(nanobind::module_& m);
void bind_schedule(nanobind::module_& m);
void bind_sparse(nanobind::module_& m);
void bind_exchange(nanobind::module_& m);
void bind_microbench(nanobind::module_& m);

// A pointer that Python passed as an integer; 0 is null.
template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace twofold
