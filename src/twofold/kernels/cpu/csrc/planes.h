// Products with matrices that are stored as bit planes, as instructions of a stream; and their packing.
#pragma once

#include <cstdint>
#include <memory>

#include "planes_kernels.h"
#include "stream.h"

namespace twofold {

struct PlaneMatrix {
  PlaneLayout layout;
  bool coded;  // binary codes with factors, else bipolar integers
  const uint8_t* strips;
  long rows, cols;
};

// Planes [rows, planes, cols / 8], bit k % 8 of byte k / 8 for column k, and factors f16 [rows, groups, factors] to
// strips at `packed` (plane_strip_bytes each).
void pack_planes(const PlaneMatrix& m, const uint8_t* planes, const uint16_t* factors, uint8_t* packed);

// The values in float32, [rows, cols].
void unpack_planes(const PlaneMatrix& m, float* out);

// x [tokens, cols] times W^T + bias to y [tokens, rows], float32. bits: of the bipolar integers that activations are
// rounded to; of coded matrices 1 looks sums up in tables, and 0 widens the matrix, strip by strip, for many tokens.
Instruction plane_linear(const std::shared_ptr<Stream>& stream, const PlaneMatrix& m, const float* x, long tokens,
                         const float* bias, float* y, int bits);

}  // namespace twofold
