// The kernels on bit planes compiled for: avx512 with its own count of bits.
#define TWOFOLD_ISA avx512_popcount
#define TWOFOLD_ISA_AVX512

#include "kernels.h"

#include "planes_impl.h"

namespace twofold {

PlaneKernels popcount_planes() { return avx512_popcount::plane_kernels(); }

}  // namespace twofold
