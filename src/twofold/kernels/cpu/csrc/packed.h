// Packing of GGUF blocks into strips, and back: see matmul_kernels.h for the layout.
#pragma once

#include <cstdint>

#include "matmul_kernels.h"

namespace twofold {

// GGUF rows [rows, cols] at `source` to strips at `packed` (strip_bytes each). cols is a multiple of the format's
// block, and of 32.
void pack(Packed format, const uint8_t* source, long rows, long cols, uint8_t* packed);

// Row `row` of a packed matrix in float32, in the order of operations of GGUF's own reference, to the last bit.
void unpack_row(Packed format, const uint8_t* packed, long cols, long row, float* out);

}  // namespace twofold
