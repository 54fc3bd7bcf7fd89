// Graphs over the keys of one KV head, searched for those that a query likes best: what depends on the instruction set.
#pragma once

namespace twofold {

struct GraphKernels {
  float (*dot)(const float* a, const float* b, int dim);
};

}  // namespace twofold
