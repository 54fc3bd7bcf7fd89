// The kernels compiled for: avx2.
#define TWOFOLD_ISA avx2
#define TWOFOLD_ISA_AVX2

#include "kernels.h"

#include "attention_impl.h"
#include "bandwidth_impl.h"
#include "elementwise_impl.h"
#include "matmul_impl.h"

namespace twofold {

const KernelTable& avx2_kernels() {
  static const KernelTable table{"avx2", avx2::matmul_kernels(), avx2::elementwise_kernels(),
                                 avx2::attention_kernels(), avx2::bandwidth_kernels()};
  return table;
}

}  // namespace twofold
