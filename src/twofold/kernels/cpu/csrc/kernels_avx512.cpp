// The kernels compiled for: avx512.
#define TWOFOLD_ISA avx512
#define TWOFOLD_ISA_AVX512

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

const KernelTable& avx512_kernels() {
  static const KernelTable table{"avx512", avx512::matmul_kernels(), avx512::elementwise_kernels(),
                                 avx512::attention_kernels(), avx512::bandwidth_kernels(),
                                 avx512::graph_kernels(), avx512::hamming_kernels(),
                                 __builtin_cpu_supports("avx512vpopcntdq") ? popcount_planes()
                                                                           : avx512::plane_kernels(),
                                 avx512::sparse_kernels(), avx512::prefill_kernels(), avx512::observe_kernels(), avx512::schedule_kernels()};
  return table;
}

}  // namespace twofold
