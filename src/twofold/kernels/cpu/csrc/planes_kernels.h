// Products of matrices that are stored as bit planes: binary codes with real factors, looked up in tables of partial
// sums, and bipolar integers, counted bit by bit.
//
// A matrix [rows, cols] is cut into strips of 16 rows. A strip is a sequence of groups of `group` columns (the last may
// have fewer, in whole blocks of 32), each with its factors first:
//
//   factors   f16[16], `factors` times
//   block     32 columns: for each plane 16 words of 32 bits, a word per row; bit k belongs to column k
//
// Coded: a value is the sum over planes of ±alpha, plus z; the factors are alpha of every plane, then z. Its words hold
// four bits as a sign and an index: bit 3 as it is, and the bits below it inverted where bit 3 is clear, so that the
// eight combinations of signs with a positive last one serve all sixteen.
//
// Bipolar: plane i counts ±2^i, so that codes of n bits are the odd numbers from 1 - 2^n to 2^n - 1; one factor scales
// them. Activations are rounded to such numbers too, each group of a column in units of a scale of its own. Sums over a
// group are whole numbers below 2^24 in either way of computing them, so both give the same floats.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "matmul_kernels.h"

namespace twofold {

constexpr int kMostPlanes = 8;
constexpr int kMostGroup = 256;  // columns: 255 * 255 * 256 < 2^24

struct PlaneLayout {
  int planes, group, factors;
};

inline size_t factor_bytes(const PlaneLayout& l) { return static_cast<size_t>(2) * kStripRows * l.factors; }
inline size_t plane_block_bytes(const PlaneLayout& l) { return static_cast<size_t>(4) * kStripRows * l.planes; }
inline long group_count(const PlaneLayout& l, long cols) { return (cols + l.group - 1) / l.group; }
inline size_t plane_strip_bytes(const PlaneLayout& l, long cols) {
  return group_count(l, cols) * factor_bytes(l) + cols / kBlockCols * plane_block_bytes(l);
}

// Calls body(number of the group, its factors, its first block, columns) for the groups of a strip.
template <class Body>
inline void each_group(const PlaneLayout& l, const uint8_t* strip, long cols, const Body& body) {
  for (long first = 0, g = 0; first < cols; first += l.group, ++g) {
    const long count = std::min<long>(l.group, cols - first);
    body(g, strip, strip + factor_bytes(l), count);
    strip += factor_bytes(l) + count / kBlockCols * plane_block_bytes(l);
  }
}

// The signs of a coded word, a bit per column.
inline uint32_t plain_bits(uint32_t word) {
  const uint32_t clear = ~word & 0x88888888u;
  return word ^ (clear - (clear >> 3));
}
inline uint32_t coded_bits(uint32_t plain) { return plain_bits(plain); }  // its own inverse: bit 3 stays

// Activations of a column in bipolar integers: planes [cols / 32][bits], scale of each group; values as floats [cols]
// where they are wanted.
struct BipolarColumn {
  uint32_t* planes;
  float* scales;
  float* values;
};

struct PlaneKernels {
  int table;     // floats of a table of four columns
  int counting;  // pairs of planes up to which counting is faster than multiplying what was widened
  // x [cols] to tables [cols / 4][table] of its signed sums, and to the sum of every group.
  void (*tables)(const float* x, long cols, int group, float* tables, float* sums);
  // y[c * y_stride + r] = a coded strip times column c, whose tables and sums lie at c * cols / 4 * table and c * groups.
  void (*look_up)(const PlaneLayout& l, const uint8_t* strip, long cols, const float* tables, const float* sums,
                  int columns, float* y, long y_stride, int rows);
  // x [cols] to bipolar integers of `bits`; a group that is not finite gets NaN for its scale.
  void (*bipolar_round)(const float* x, long cols, int group, int bits, const BipolarColumn& out);
  // y as above, a bipolar strip times columns of `bits` planes: planes at c * cols / 32 * bits, scales at c * groups.
  void (*bipolar)(const PlaneLayout& l, const uint8_t* strip, long cols, int bits, const uint32_t* planes,
                  const float* scales, int columns, float* y, long y_stride, int rows);
  // Values of a coded strip, or whole numbers and factors [groups][16] of a bipolar one; w [cols][16].
  void (*widen_coded)(const PlaneLayout& l, const uint8_t* strip, long cols, float* w);
  void (*widen_bipolar)(const PlaneLayout& l, const uint8_t* strip, long cols, float* w, float* factors);
  // y as above, from w [cols][16] and columns x + c * cols. Where there are factors, sums over groups of `group` columns
  // are multiplied by them and by the column's scale of the group.
  void (*wide)(const float* w, long cols, int group, const float* factors, const float* x, const float* scales,
               int columns, float* y, long y_stride, int rows);
};

}  // namespace twofold
