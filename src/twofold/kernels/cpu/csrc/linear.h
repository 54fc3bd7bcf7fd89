// Products of activations with packed or dense weights as instructions of a stream.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "matmul_kernels.h"
#include "stream.h"

namespace twofold {

// Rows of a matrix that are stored in one format, one segment after the other. scale: of all its values; row_scales:
// of each row, where it has one.
struct Segment {
  Packed format;
  const uint8_t* data;
  long rows;
  float scale = 1.0f;
  const float* row_scales = nullptr;
};

// What activations are multiplied as: float32, or int8 in blocks of 32 that share a scale, either amax / 127 or the
// least power of two that leaves no code above `largest`; or int8 with one scale for a whole token: `scale`, or
// amax / 127 where that is zero; or outlier-victim pairs of int4 in units of `scale`.
struct Operands {
  enum class Kind { exact, int8, e8m0, token, pairs } kind;
  int largest = 127;
  float scale = 0.0f;
};

// x [tokens, cols] times W^T + bias to y [tokens, rows of all segments], float32.
Instruction linear(const std::shared_ptr<Stream>& stream, std::vector<Segment> segments, long cols, const float* x,
                   long tokens, const float* bias, float* y, Operands operands);

// The same with W [rows, cols] in float32, for a few tokens.
Instruction dense_linear(const Stream& stream, const float* w, long rows, long cols, const float* x, long tokens,
                         const float* bias, float* y);

// Rows `ids` [tokens] of a packed table, times `scale`, to y [tokens, cols].
Instruction packed_rows(Packed format, const uint8_t* table, long cols, const int64_t* ids, long tokens, float scale,
                        float* y);

}  // namespace twofold
