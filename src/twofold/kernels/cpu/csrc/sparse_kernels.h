// Products with a matrix of which most weights are gone.
//
// A matrix is cut into tiles of rows (outputs). A tile keeps some of the inputs, the same for all of its rows, and of
// these perhaps some weights of each row only, marked in a bit mask: equally many in every row. So a tile is a small
// dense matrix over inputs of its own, or a masked one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace twofold {

// values: binary16 [rows, kept]; mask: a bit per kept input, [rows, cols / 8 rounded up], null where all are there;
// inputs: which inputs are kept [cols], null where these are the first `cols`; outputs: where the rows go in an output
// [rows], null where these are `output` and those that follow.
struct SparseTile {
  const uint16_t* values;
  const uint8_t* mask;
  const int32_t* inputs;
  const int32_t* outputs;
  int rows, cols, kept;
  long output;

  long output_of(int row) const { return outputs != nullptr ? outputs[row] : output + row; }
  int mask_bytes() const { return (cols + 7) / 8; }
};

constexpr int kFewTokens = 8;     // up to so many, lanes run along the inputs and pass over those that are gone
constexpr int kTokenChunk = 32;   // beyond, lanes are tokens, so many at a time, and what is gone takes no time
constexpr int kSparsePadding = 16;  // floats behind the inputs of a token, zero: the widest vector

struct SparseKernels {
  // y[t * y_stride + output] = row · x[t] + bias for rows [first, last) and `tokens` tokens, whose kept inputs lie at
  // x + t * x_stride. bias: by output, or null. May read values up to a vector behind the last.
  void (*few)(const SparseTile& tile, int first, int last, const float* x, long x_stride, int tokens, const float* bias,
              float* y, long y_stride);
  // The same with kept inputs by input, [cols, kTokenChunk]; list: room for tile.kept + 8 ints.
  void (*many)(const SparseTile& tile, int first, int last, const float* x, int tokens, int32_t* list, const float* bias,
               float* y, long y_stride);
};

}  // namespace twofold
