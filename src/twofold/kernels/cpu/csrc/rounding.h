// Activations as block formats want them: rotated by Hadamard blocks, rounded to blocks of integers or small floats.
// The arithmetic and its order are those of techniques/weights/{hadamard,block_formats}.py, to the last bit.
#pragma once

#include "stream.h"

namespace twofold {

// A number type and how blocks of it are scaled. block: elements that share a scale; largest: value of the type;
// mantissa: its bits, or -1 for integers; smallest_normal: least power of two with all mantissa bits. two_levels: scales
// are E4M3 numbers times a float32 of the row, otherwise powers of two (E8M0).
struct BlockRounding {
  int block;
  float largest;
  int mantissa;
  float smallest_normal;
  bool two_levels;
};

// x [tokens, cols] to y: each element to the nearest value that its block can hold. NaN and infinity make their block
// NaN, with two levels their row.
Instruction round_blocks(const BlockRounding& rounding, const float* x, long tokens, long cols, float* y);

// x [tokens, cols] to y: every `size` columns (a power of two that divides cols) times signs [size], then the
// Walsh-Hadamard transform.
Instruction rotate_blocks(const float* x, long tokens, long cols, const float* signs, long size, float* y);

}  // namespace twofold
