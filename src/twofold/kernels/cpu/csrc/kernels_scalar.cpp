// The kernels compiled for: scalar.
#define TWOFOLD_ISA scalar
#define TWOFOLD_ISA_SCALAR

#include "kernels.h"

#include "attention_impl.h"
#include "bandwidth_impl.h"
#include "elementwise_impl.h"
#include "matmul_impl.h"

namespace twofold {

const KernelTable& scalar_kernels() {
  static const KernelTable table{"scalar", scalar::matmul_kernels(), scalar::elementwise_kernels(),
                                 scalar::attention_kernels(), scalar::bandwidth_kernels()};
  return table;
}

}  // namespace twofold
