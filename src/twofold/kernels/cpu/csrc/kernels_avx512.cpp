// The kernels compiled for: avx512.
#define TWOFOLD_ISA avx512
#define TWOFOLD_ISA_AVX512

#include "kernels.h"

#include "attention_impl.h"
#include "bandwidth_impl.h"
#include "elementwise_impl.h"
#include "matmul_impl.h"

namespace twofold {

const KernelTable& avx512_kernels() {
  static const KernelTable table{"avx512", avx512::matmul_kernels(), avx512::elementwise_kernels(),
                                 avx512::attention_kernels(), avx512::bandwidth_kernels()};
  return table;
}

}  // namespace twofold
