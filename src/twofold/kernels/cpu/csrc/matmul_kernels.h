// Products of packed weights with a few or many columns of activations.
//
// Packed weights. A matrix [rows, cols] is cut into strips of 16 rows; a strip is a sequence of blocks of 32 columns,
// so that a SIMD lane is a row and no product ends in a horizontal sum. Within a block the codes lie as vectors of
// 64 bytes, 16 rows × 4 consecutive columns each; a group is such a set of 4 columns, a block has 8. Codes are
// unsigned; a value is D · code + M, with D and M per row and block (16 columns in q6_k):
//
//   4-bit codes   4 vectors; vector v holds group 2v in the low and group 2v + 1 in the high halves of its bytes
//   fifth bits    1 vector; bit g of a byte belongs to group g
//   bits 5 and 6  2 vectors; vector v holds groups 4v … 4v + 3, two bits each from the lowest up
//   3-bit codes   their low two bits as bits 5 and 6 lie above, then their third bits as fifth bits do
//   8-bit codes   8 vectors, one per group
//
//   format   block of 16 rows × 32 columns                             bytes   before every 8 blocks
//   q4_0     d f16[16], codes                                            288
//   q4_1     d f16[16], m f16[16], codes                                 320
//   q5_0     d f16[16], fifth bits, codes                                352
//   q5_1     d f16[16], m f16[16], fifth bits, codes                     384
//   q8_0     d f16[16], codes (value + 128)                              544
//   q4_k     scale u8[16], min u8[16], codes                             288   d f16[16], dmin f16[16]
//   q5_k     scale u8[16], min u8[16], fifth bits, codes                 352   d f16[16], dmin f16[16]
//   q6_k     scale i8[2][16], bits 5 and 6, codes                        416   d f16[16]
//
// Block formats (MX, NV and 4-bit groups), whose values are D · (code - offset) and whose scale has a type of its own:
//
//   format     block of 16 rows × 32 columns                           bytes   header
//   mxint8     scale E8M0[16], codes (value + 128)                       528
//   mxint6     scale E8M0[16], bits 5 and 6, codes (value + 32)          400
//   mxint4     scale E8M0[16], codes (value + 8)                         272
//   mxfp4      scale E8M0[16], codes (E2M1)                              272
//   nvint4     scale E4M3[2][16], codes (value + 8)                      288
//   nvfp4      scale E4M3[2][16], codes (E2M1)                           288
//   int4-gN    codes (value + 8)                                         256   scale bf16[16], before every N / 32 blocks
//   int3-gN    codes (value + 4)                                         192   the same
//   int8-gN    codes (value + 128)                                       512   the same
//
// Outlier-victim pairs (pair_values.h), with a float32 scale per row beside the strips:
//
//   ovp-int4, ovp-flint4   4-bit codes                                   256
//   ovp-int8               8-bit codes                                   512
//
// nvint4 and nvfp4 are further multiplied by a float32 of the whole matrix. Where a row ends within the blocks of a
// header, the strip is filled up with blocks that are never read. E2M1 becomes an integer by a table (block_values.h).
//
// Rows beyond the last are zero. q4_k and q5_k spend 8 bits where GGUF packs 6 for a scale or minimum; all others take
// exactly the bytes of their source, and all give exactly its values back.
//
// Activations. A column is quantised once to int8 in blocks of 32 (amax / 127, or for activations in an MX format the
// power of two that this format asks for; round to nearest even), with the block's scale and its sums beside it. Sums of products are exact in int32, and blocks are added in
// order, so that a result does not depend on how many columns are multiplied together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pair_values.h"

namespace twofold {

constexpr int kStripRows = 16;
constexpr int kBlockCols = 32;

enum class Packed : int {
  q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k,
  mxint8, mxint6, mxint4, mxfp4, nvint4, nvfp4, int4_g32, int4_g64, int4_g128, int3_g32, int3_g64, int3_g128,
  int8_g32, int8_g64, int8_g128, ovp_int4, ovp_flint4, ovp_int8,
};
constexpr int kGgufFormats = 8;  // the first
constexpr int kPackedFormats = 26;

struct PackedLayout {
  const char* name;
  int block_bytes;   // of a strip's block
  int header_bytes;  // before every `period` blocks
  int period;
  int source_cols;   // columns are a multiple of this: of a GGUF block, or 32
  int source_bytes;  // of a GGUF block
};
constexpr PackedLayout kLayouts[kPackedFormats] = {
    {"q4_0", 288, 0, 1, 32, 18},       {"q4_1", 320, 0, 1, 32, 20},       {"q5_0", 352, 0, 1, 32, 22},
    {"q5_1", 384, 0, 1, 32, 24},       {"q8_0", 544, 0, 1, 32, 34},       {"q4_k", 288, 64, 8, 256, 144},
    {"q5_k", 352, 64, 8, 256, 176},    {"q6_k", 416, 32, 8, 256, 210},
    {"mxint8", 528, 0, 1, 32, 0},      {"mxint6", 400, 0, 1, 32, 0},      {"mxint4", 272, 0, 1, 32, 0},
    {"mxfp4", 272, 0, 1, 32, 0},       {"nvint4", 288, 0, 1, 32, 0},      {"nvfp4", 288, 0, 1, 32, 0},
    {"int4-g32", 256, 32, 1, 32, 0},   {"int4-g64", 256, 32, 2, 32, 0},   {"int4-g128", 256, 32, 4, 32, 0},
    {"int3-g32", 192, 32, 1, 32, 0},   {"int3-g64", 192, 32, 2, 32, 0},   {"int3-g128", 192, 32, 4, 32, 0},
    {"int8-g32", 512, 32, 1, 32, 0},   {"int8-g64", 512, 32, 2, 32, 0},   {"int8-g128", 512, 32, 4, 32, 0},
    {"ovp-int4", 256, 0, 1, 32, 0},    {"ovp-flint4", 256, 0, 1, 32, 0},  {"ovp-int8", 512, 0, 1, 32, 0},
};
constexpr const PackedLayout& layout(Packed format) { return kLayouts[static_cast<int>(format)]; }

inline size_t strip_bytes(Packed format, long cols) {
  const PackedLayout& l = layout(format);
  const long cells = (cols / kBlockCols + l.period - 1) / l.period;
  return static_cast<size_t>(cells) * (l.header_bytes + l.period * l.block_bytes);
}

// Of a block of one column: its scale, its sum (scale times the sum of its codes), and the sums of all, of the first
// and of the last 16 codes. Of float32 activations: scale 1, and their own sums.
struct BlockMeta {
  float scale, sum, total, low, high;
};

struct MatmulKernels {
  // x [cols] to codes [cols] and meta [cols / 32].
  void (*quantise)(const float* x, long cols, int8_t* codes, BlockMeta* meta);
  // The same with power-of-two scales, the least that leave no code above `largest`, for MX integers. A block that is
  // not finite becomes NaN.
  void (*quantise_e8m0)(const float* x, long cols, int largest, int8_t* codes, BlockMeta* meta);
  // The same with one scale for the whole column: `scale`, beyond which codes saturate at 127, or amax / 127 where that
  // is zero.
  void (*quantise_column)(const float* x, long cols, float scale, int8_t* codes, BlockMeta* meta);
  // The same in outlier-victim pairs of int4.
  void (*quantise_pairs)(const float* x, long cols, float scale, int8_t* codes, BlockMeta* meta);
  // x [count] to the values of pairs, in units of `scale`.
  void (*round_pairs)(Pairs type, const float* x, long count, float scale, float* y);
  // The meta of float32 activations.
  void (*summarise)(const float* x, long cols, BlockMeta* meta);
  // y[c * y_stride + r] = sum over a strip of 16 rows times column c, for `columns` columns; rows: valid rows r.
  // Column c has its codes at x + c * cols and its meta at meta + c * cols / 32.
  void (*strip)(Packed format, const uint8_t* strip, long cols, const int8_t* x, const BlockMeta* meta, int columns,
                float* y, long y_stride, int rows);
  // The same with float32 activations at x + c * x_stride.
  void (*strip_exact)(Packed format, const uint8_t* strip, long cols, const float* x, long x_stride,
                      const BlockMeta* meta, int columns, float* y, long y_stride, int rows);
  // y[c * y_stride + r] = w[r, :] · x[c, :] for rows [first, last) of a float32 matrix.
  void (*dense)(const float* w, long cols, long first, long last, const float* x, int columns, float* y, long y_stride);
};

}  // namespace twofold
