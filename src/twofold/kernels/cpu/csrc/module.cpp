// The Python module `twofold.kernels.cpu._native`.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "bind.h"
#include "kernels.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  using namespace twofold;
#if defined(NDEBUG)
  nb::set_leak_warnings(false);  // a stream that a Python module keeps until the interpreter ends is no leak
#endif
  m.doc() = "Native CPU kernels: ops on raw pointers, run by a team of threads.";
  m.def("supported_isas", &supported_isas, "Instruction sets of this build that this processor runs, best first.");
  m.def("isa", [] { return std::string(kernels().isa); }, "The instruction set in use.");
  m.def("use_isa", &use_isa, nb::arg("name"), "Use another of `supported_isas()`; for tests and comparisons.");
  bind_stream(m);
  bind_matmul(m);
  bind_blocks(m);
  bind_planes(m);
  bind_pairs(m);
  bind_elementwise(m);
  bind_attention(m);
  bind_entries(m);
  bind_graph(m);
  bind_hamming(m);
  bind_prefill(m);
  bind_schedule(m);
  bind_sparse(m);
  bind_exchange(m);
  bind_microbench(m);
}
