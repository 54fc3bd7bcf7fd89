// Packing of outlier-victim pairs into strips, and back; activations rounded to them.
#pragma once

#include <cstdint>

#include "pair_values.h"
#include "stream.h"

namespace twofold {

// Codes [rows, cols · bits / 8] (two codes of 4 bits a byte, the first low) to strips at `packed`.
void pack_pairs(Pairs type, const uint8_t* codes, long rows, long cols, uint8_t* packed);

// Rows [rows, cols] in units of their scales, rounded, to such codes.
void encode_pairs(Pairs type, const float* x, const float* scales, long rows, long cols, uint8_t* codes);

// Mean squared error of x [rows, cols] rounded to pairs in units of scales [rows].
void pair_errors(Pairs type, const float* x, const float* scales, long rows, long cols, float* errors);

// The values in float32 [rows, cols], times the scale of each row.
void unpack_pairs(Pairs type, const uint8_t* packed, const float* scales, long rows, long cols, float* out);

// x [tokens, cols] to the nearest pairs in units of `scale`, times that, to y.
Instruction round_pairs(Pairs type, float scale, const float* x, long tokens, long cols, float* y);

}  // namespace twofold
