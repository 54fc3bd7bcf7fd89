// The kernels that exist once per instruction set, behind one table that is chosen at run time by cpuid.
//
// Every instruction set's file (kernels_scalar.cpp, kernels_avx2.cpp, kernels_avx512.cpp) is compiled with its own
// flags and fills a KernelTable. The scalar one is portable C++ and the reference that tests hold the others to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention_kernels.h"
#include "bandwidth_kernels.h"
#include "elementwise_kernels.h"
#include "graph_kernels.h"
#include "hamming_kernels.h"
#include "matmul_kernels.h"
#include "observe_kernels.h"
#include "planes_kernels.h"
#include "prefill_kernels.h"
#include "schedule_kernels.h"
#include "sparse_kernels.h"

namespace twofold {

struct KernelTable {
  const char* isa;
  MatmulKernels matmul;
  ElementwiseKernels elementwise;
  AttentionKernels attention;
  BandwidthKernels bandwidth;
  GraphKernels graph;
  HammingKernels hamming;
  PlaneKernels planes;
  SparseKernels sparse;
  PrefillKernels prefill;
  ObserveKernels observe;
  ScheduleKernels schedule;
};

const KernelTable& scalar_kernels();
#if defined(TWOFOLD_X86)
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
PlaneKernels popcount_planes();  // avx512 with its count of bits, which not every such processor has
#endif

// Names of the instruction sets that this processor can run, best first.
std::vector<std::string> supported_isas();

// The table in use: the best supported one until `use_isa` says otherwise (tests do).
const KernelTable& kernels();
void use_isa(const std::string& name);

}  // namespace twofold
