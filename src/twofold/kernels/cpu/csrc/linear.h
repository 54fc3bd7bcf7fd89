// Products of activations with packed or dense weights as instructions of a stream.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "matmul_kernels.h"
#include "stream.h"

namespace twofold {

// Rows of a matrix that are stored in one format, one segment after the other.
struct Segment {
  Packed format;
  const uint8_t* data;
  long rows;
};

// x [tokens, cols] times W^T + bias to y [tokens, rows of all segments], float32. `exact` keeps the activations in
// float32; otherwise each is quantised to int8 in blocks of 32.
Instruction linear(const std::shared_ptr<Stream>& stream, std::vector<Segment> segments, long cols, const float* x,
                   long tokens, const float* bias, float* y, bool exact);

// The same with W [rows, cols] in float32, for a few tokens.
Instruction dense_linear(const float* w, long rows, long cols, const float* x, long tokens, const float* bias,
                         float* y);

// Rows `ids` [tokens] of a packed table, times `scale`, to y [tokens, cols].
Instruction packed_rows(Packed format, const uint8_t* table, long cols, const int64_t* ids, long tokens, float scale,
                        float* y);

}  // namespace twofold
