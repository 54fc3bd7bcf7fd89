// Packing of the block formats' rows into strips, and back: see matmul_kernels.h for the layout.
#pragma once

#include <cstdint>

#include "matmul_kernels.h"

namespace twofold {

// Codes [rows, padded columns] as a little-endian bit stream per row, signed integers in two's complement, and scales
// [rows, blocks of the format] to strips at `packed`. Rows are padded to whole blocks of the format; cols is a multiple
// of 32.
void pack_blocks(Packed format, const uint8_t* codes, const uint8_t* scales, long rows, long cols, uint8_t* packed);

// The packed matrix in float32 [rows, cols]: each element times the product of its block's scale and the matrix's.
void unpack_blocks(Packed format, const uint8_t* packed, float scale, long rows, long cols, float* out);

}  // namespace twofold
