// Inner products for searches of graphs, written once over `Vec`.
#pragma once

#include "graph_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

float graph_dot(const float* a, const float* b, int dim) {
  Vec sum = zero();
  int d = 0;
  for (; d + kLanes <= dim; d += kLanes) sum = fma(load(a + d), load(b + d), sum);
  if (d < dim) sum = fma(load(a + d, dim - d), load(b + d, dim - d), sum);
  return twofold::TWOFOLD_ISA::sum(sum);
}

}  // namespace

inline GraphKernels graph_kernels() { return {graph_dot}; }

}  // namespace twofold::TWOFOLD_ISA
