// The kernels compiled for: scalar.
#define TWOFOLD_ISA scalar
#define TWOFOLD_ISA_SCALAR

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

const KernelTable& scalar_kernels() {
  static const KernelTable table{"scalar", scalar::matmul_kernels(), scalar::elementwise_kernels(),
                                 scalar::attention_kernels(), scalar::bandwidth_kernels(),
                                 scalar::graph_kernels(), scalar::hamming_kernels(), scalar::plane_kernels(),
                                 scalar::sparse_kernels(), scalar::prefill_kernels(), scalar::observe_kernels(), scalar::schedule_kernels()};
  return table;
}

}  // namespace twofold
