// The kernels compiled for: avx2.
#define TWOFOLD_ISA avx2
#define TWOFOLD_ISA_AVX2

#include "kernels.h"

#include "attention_impl.h"
#include "bandwidth_impl.h"
#include "elementwise_impl.h"
#include "graph_impl.h"
#include "hamming_impl.h"
#include "matmul_impl.h"
#include "observe_impl.h"
#include "planes_impl.h"
#include "prefill_impl.h"
#include "schedule_impl.h"
#include "sparse_impl.h"

namespace twofold {

const KernelTable& avx2_kernels() {
  static const KernelTable table{"avx2", avx2::matmul_kernels(), avx2::elementwise_kernels(),
                                 avx2::attention_kernels(), avx2::bandwidth_kernels(),
                                 avx2::graph_kernels(), avx2::hamming_kernels(), avx2::plane_kernels(),
                                 avx2::sparse_kernels(), avx2::prefill_kernels(), avx2::observe_kernels(), avx2::schedule_kernels()};
  return table;
}

}  // namespace twofold
