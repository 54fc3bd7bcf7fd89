// Strip products, written once over `Codes` (the unpacked codes of a block) and compiled per instruction set.
// matmul_dot.h says how an instruction set unpacks a block and multiplies it; here is the loop around it.
#pragma once

#include <array>
#include <utility>

#include "block_values.h"
#include "matmul_blocks.h"
#include "matmul_dot.h"
#include "matmul_kernels.h"
#include "matmul_pairs.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

inline void quantise(const float* x, long cols, int8_t* codes, BlockMeta* meta) {
  for (long b = 0; b < cols / kBlockCols; ++b, x += kBlockCols, codes += kBlockCols) {
    Vec largest = zero();
    for (int i = 0; i < kBlockCols; i += kLanes) largest = max(largest, abs(load(x + i)));
    const float amax = max_of(largest);
    const float scale = amax / 127.0f, inverse = amax > 0.0f ? 127.0f / amax : 0.0f;
    const HalfSums sums = round_codes(x, inverse, codes);
    const auto total = static_cast<float>(sums.low + sums.high);
    meta[b] = {scale, scale * total, total, static_cast<float>(sums.low), static_cast<float>(sums.high)};
  }
}

inline void quantise_e8m0(const float* x, long cols, int largest, int8_t* codes, BlockMeta* meta) {
  for (long b = 0; b < cols / kBlockCols; ++b, x += kBlockCols, codes += kBlockCols) {
    uint32_t amax = 0;  // bits of magnitudes are ordered as these are, with infinity and NaN on top
    for (int i = 0; i < kBlockCols; ++i) {
      uint32_t bits;
      std::memcpy(&bits, x + i, 4);
      bits &= 0x7fffffffu;
      amax = bits > amax ? bits : amax;
    }
    if (amax >= 0x7f800000u) {
      for (int i = 0; i < kBlockCols; ++i) codes[i] = 0;
      const float nan = float_of_bits(0x7fc00000u);
      meta[b] = {nan, nan, 0.0f, 0.0f, 0.0f};
      continue;
    }
    const uint8_t scale = e8m0_code(amax, static_cast<float>(largest));
    const HalfSums sums = round_codes(x, e8m0_value(static_cast<uint8_t>(254 - scale)), codes);
    const auto total = static_cast<float>(sums.low + sums.high);
    const float factor = e8m0_value(scale);
    meta[b] = {factor, factor * total, total, static_cast<float>(sums.low), static_cast<float>(sums.high)};
  }
}

inline void quantise_column(const float* x, long cols, float scale, int8_t* codes, BlockMeta* meta) {
  if (scale == 0.0f) {
    Vec largest = zero();
    for (long i = 0; i < cols; i += kLanes) largest = max(largest, abs(load(x + i)));
    scale = max_of(largest) / 127.0f;
  }
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (long b = 0; b < cols / kBlockCols; ++b, x += kBlockCols, codes += kBlockCols) {
    float steps[kBlockCols];  // 127 at most: -128 times a code of -128 would not fit the sums of pairs
    for (int i = 0; i < kBlockCols; i += kLanes)
      store(steps + i, min(max(mul(load(x + i), set1(inverse)), set1(-127.0f)), set1(127.0f)));
    const HalfSums sums = round_codes(steps, 1.0f, codes);
    const auto total = static_cast<float>(sums.low + sums.high);
    meta[b] = {scale, scale * total, total, static_cast<float>(sums.low), static_cast<float>(sums.high)};
  }
}

inline void summarise(const float* x, long cols, BlockMeta* meta) {
  for (long b = 0; b < cols / kBlockCols; ++b, x += kBlockCols) {
    float low = 0.0f, high = 0.0f;
    for (int i = 0; i < 16; ++i) {
      low += x[i];
      high += x[16 + i];
    }
    meta[b] = {1.0f, low + high, low + high, low, high};
  }
}

// Weights come once per step and in order, and the first columns that meet a strip wait for it: it is asked for some
// blocks ahead, from memory to the second level of cache and from there to the first (bytes ahead: measured).
constexpr long kToFirst = 2560, kToSecond = 6144;
inline void fetch_ahead(const uint8_t* p, int bytes) {
  for (int i = 0; i < bytes; i += 64) {
    __builtin_prefetch(p + kToFirst + i, 0, 3);
    __builtin_prefetch(p + kToSecond + i, 0, 2);
  }
}

// Stores the first `valid` lanes; a strip's last rows may not exist.
inline void store_rows(float* y, Vec sum, int valid) {
  if (valid >= kLanes) {
    store(y, sum);
  } else if (valid > 0) {
    store(y, sum, valid);
  }
}

// One strip times N columns.
template <class Format, int N>
inline void strip_columns(const uint8_t* at, long cols, const int8_t* x, const BlockMeta* meta, float* y,
                          long y_stride, int rows, bool ahead) {
  const long blocks = cols / kBlockCols;
  for (int half = 0; half < kStripRows; half += kLanes) {
    const uint8_t* p = at;
    const uint8_t* header = nullptr;
    Vec sum[N];
    for (int c = 0; c < N; ++c) sum[c] = zero();
    for (long b = 0; b < blocks; ++b) {
      if constexpr (Format::kHeader != 0) {
        if ((b & (Format::kPeriod - 1)) == 0) {
          header = p;
          p += Format::kHeader;
        }
      }
      if (ahead && half == 0) fetch_ahead(p, Format::kBlock);
      const auto block = Format::unpack(p, header, half);
      block.template add_columns<N>(x + b * kBlockCols, cols, meta + b, blocks, sum);
      p += Format::kBlock;
    }
    for (int c = 0; c < N; ++c) store_rows(y + c * y_stride + half, sum[c], rows - half);
  }
}

using Pass = void (*)(const uint8_t* at, long cols, const int8_t* x, const BlockMeta* meta, float* y, long y_stride,
                      int rows, bool ahead);
template <class Format, int... I>
constexpr std::array<Pass, kColumns> passes_of(std::integer_sequence<int, I...>) {
  return {strip_columns<Format, I + 1>...};
}

// Every pass over a strip unpacks it, so that there are as few as registers allow, of about the same size.
template <class Format>
inline void strip(const uint8_t* at, long cols, const int8_t* x, const BlockMeta* meta, int columns, float* y,
                  long y_stride, int rows) {
  static constexpr auto kPasses = passes_of<Format>(std::make_integer_sequence<int, kColumns>{});
  const long blocks = cols / kBlockCols;
  for (int c = 0, n; c < columns; c += n) {
    const int left = columns - c, passes = (left + kColumns - 1) / kColumns;
    n = (left + passes - 1) / passes;
    kPasses[n - 1](at, cols, x + c * cols, meta + c * blocks, y + c * y_stride, y_stride, rows, c == 0);
  }
}

// One strip times one or several float32 columns: codes become floats, a lane is still a row.
template <class Format, int N>
inline void exact_columns(const uint8_t* at, long cols, const float* x, long x_stride, const BlockMeta* meta, float* y,
                          long y_stride, int rows, bool ahead) {
  const long blocks = cols / kBlockCols;
  for (int half = 0; half < kStripRows; half += kLanes) {
    const uint8_t* p = at;
    const uint8_t* header = nullptr;
    Vec sum[N];
    for (int c = 0; c < N; ++c) sum[c] = zero();
    for (long b = 0; b < blocks; ++b) {
      if constexpr (Format::kHeader != 0) {
        if ((b & (Format::kPeriod - 1)) == 0) {
          header = p;
          p += Format::kHeader;
        }
      }
      if (ahead && half == 0) fetch_ahead(p, Format::kBlock);
      const auto block = Format::unpack(p, header, half);
      Vec part[2][N];  // the two halves of 16 columns, which q6_k scales apart; side by side, for each is a chain of sums
      for (int c = 0; c < N; ++c) part[0][c] = part[1][c] = zero();
      for (int k = 0; k < 16; ++k)
        for (int h = 0; h < 2; ++h) {
          const Vec w = block.value(4 * h + k / 4, k % 4);
          for (int c = 0; c < N; ++c)
            part[h][c] = fma(w, set1(x[c * x_stride + b * kBlockCols + 16 * h + k]), part[h][c]);
        }
      for (int c = 0; c < N; ++c) sum[c] = block.combine(part[0][c], part[1][c], meta[c * blocks + b], sum[c]);
      p += Format::kBlock;
    }
    for (int c = 0; c < N; ++c) store_rows(y + c * y_stride + half, sum[c], rows - half);
  }
}

template <class Format>
inline void strip_exact(const uint8_t* at, long cols, const float* x, long x_stride, const BlockMeta* meta, int columns,
                        float* y, long y_stride, int rows) {
  const long blocks = cols / kBlockCols;
  int c = 0;
  for (; c + 4 <= columns; c += 4)
    exact_columns<Format, 4>(at, cols, x + c * x_stride, x_stride, meta + c * blocks, y + c * y_stride, y_stride, rows,
                             c == 0);
  for (; c < columns; ++c)
    exact_columns<Format, 1>(at, cols, x + c * x_stride, x_stride, meta + c * blocks, y + c * y_stride, y_stride, rows,
                             c == 0);
}

// Dense rows: lanes run along the columns of the matrix.
template <int N>
inline void dense_rows(const float* w, long cols, long first_row, long last_row, const float* x, float* y,
                       long y_stride) {
  for (long r = first_row; r < last_row; ++r) {
    const float* row = w + r * cols;
    Vec a[N], b[N];
    for (int c = 0; c < N; ++c) a[c] = b[c] = zero();
    long k = 0;
    for (; k + 2 * kLanes <= cols; k += 2 * kLanes) {
      const Vec w0 = load(row + k), w1 = load(row + k + kLanes);
      for (int c = 0; c < N; ++c) {
        a[c] = fma(w0, load(x + c * cols + k), a[c]);
        b[c] = fma(w1, load(x + c * cols + k + kLanes), b[c]);
      }
    }
    for (; k < cols; k += kLanes) {
      const int n = cols - k < kLanes ? static_cast<int>(cols - k) : kLanes;
      const Vec w0 = load(row + k, n);
      for (int c = 0; c < N; ++c) a[c] = fma(w0, load(x + c * cols + k, n), a[c]);
    }
    for (int c = 0; c < N; ++c) y[c * y_stride + r] = sum(add(a[c], b[c]));
  }
}

inline void dense(const float* w, long cols, long first_row, long last_row, const float* x, int columns, float* y,
                  long y_stride) {
  int c = 0;
  for (; c + 4 <= columns; c += 4)
    dense_rows<4>(w, cols, first_row, last_row, x + c * cols, y + c * y_stride, y_stride);
  for (; c < columns; ++c)
    dense_rows<1>(w, cols, first_row, last_row, x + c * cols, y + c * y_stride, y_stride);
}

#define TWOFOLD_EACH_FORMAT(call)                             \
  switch (format) {                                           \
    case Packed::q4_0: return call<Q4_0>(args);               \
    case Packed::q4_1: return call<Q4_1>(args);               \
    case Packed::q5_0: return call<Q5_0>(args);               \
    case Packed::q5_1: return call<Q5_1>(args);               \
    case Packed::q8_0: return call<Q8_0>(args);               \
    case Packed::q4_k: return call<Q4_K>(args);               \
    case Packed::q5_k: return call<Q5_K>(args);               \
    case Packed::q6_k: return call<Q6_K>(args);               \
    case Packed::mxint8: return call<MxInt<8>>(args);         \
    case Packed::mxint6: return call<MxInt<6>>(args);         \
    case Packed::mxint4: return call<MxInt<4>>(args);         \
    case Packed::mxfp4: return call<MxFp4>(args);             \
    case Packed::nvint4: return call<NvInt4>(args);           \
    case Packed::nvfp4: return call<NvFp4>(args);             \
    case Packed::int4_g32: return call<IntGroup<4, 1>>(args);  \
    case Packed::int4_g64: return call<IntGroup<4, 2>>(args);  \
    case Packed::int4_g128: return call<IntGroup<4, 4>>(args); \
    case Packed::int3_g32: return call<IntGroup<3, 1>>(args);  \
    case Packed::int3_g64: return call<IntGroup<3, 2>>(args);  \
    case Packed::int3_g128: return call<IntGroup<3, 4>>(args); \
    case Packed::int8_g32: return call<IntGroup<8, 1>>(args);  \
    case Packed::int8_g64: return call<IntGroup<8, 2>>(args);  \
    case Packed::int8_g128: return call<IntGroup<8, 4>>(args); \
    case Packed::ovp_int4: return call<OvpInt4>(args);         \

inline void any_strip(Packed format, const uint8_t* at, long cols, const int8_t* x, const BlockMeta* meta, int columns,
                      float* y, long y_stride, int rows) {
#define args at, cols, x, meta, columns, y, y_stride, rows
  TWOFOLD_EACH_FORMAT(strip)
    case Packed::ovp_flint4:  // no integer products: whoever submits one is told
    case Packed::ovp_int8: return;
  }
#undef args
}

inline void any_strip_exact(Packed format, const uint8_t* at, long cols, const float* x, long x_stride,
                            const BlockMeta* meta, int columns, float* y, long y_stride, int rows) {
#define args at, cols, x, x_stride, meta, columns, y, y_stride, rows
  TWOFOLD_EACH_FORMAT(strip_exact)
    case Packed::ovp_flint4: return strip_exact<OvpFlint4>(args);
    case Packed::ovp_int8: return strip_exact<OvpInt8>(args);
  }
#undef args
}
#undef TWOFOLD_EACH_FORMAT

inline MatmulKernels matmul_kernels() {
  return {quantise,    quantise_e8m0, quantise_column, quantise_pairs, round_pairs,
          summarise,   any_strip,     any_strip_exact, dense};
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
