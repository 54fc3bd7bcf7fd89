// Strips of bit planes times columns, written once over `Words` and compiled per instruction set: see planes_kernels.h.
#pragma once

#include "block_values.h"
#include "matmul_impl.h"
#include "planes_kernels.h"
#include "planes_words.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// ---- binary codes: tables of partial sums ----

// Signs of x[j] in the entries of a table, in the order of the codes; a table of eight is that of a minus.
struct TableSigns {
  float of[4][16];
  constexpr TableSigns() : of() {
    for (int code = 0; code < 16; ++code) {
      const int plus = code >> 3;
      for (int j = 0; j < 3; ++j) of[j][code] = ((code >> j) & 1) == plus ? 1.0f : -1.0f;
      of[3][code] = plus ? 1.0f : -1.0f;
    }
  }
};
constexpr TableSigns kSigns;

inline void make_tables(const float* x, long cols, int group, float* tables, float* sums) {
  for (long k = 0; k < cols; k += 4, tables += kTable)
    for (int i = 0; i < kTable; i += kLanes) {
      Vec sum = mul(load(kSigns.of[3] + i), set1(x[k + 3]));
      for (int j = 2; j >= 0; --j) sum = fma(load(kSigns.of[j] + i), set1(x[k + j]), sum);
      store(tables + i, sum);
    }
  for (long first = 0; first < cols; first += group) {
    float sum = 0.0f;
    for (long k = first; k < std::min(first + group, cols); ++k) sum += x[k];
    *sums++ = sum;
  }
}

template <int N>
inline void look_up_columns(const PlaneLayout& l, const uint8_t* strip, long cols, const float* tables,
                            const float* sums, float* y, long y_stride, int rows, bool ahead) {
  const long groups = group_count(l, cols), stride = cols / 4 * kTable;
  const size_t block_bytes = plane_block_bytes(l);
  for (int half = 0; half < kStripRows; half += kLanes) {
    Vec sum[N];
    for (int c = 0; c < N; ++c) sum[c] = zero();
    each_group(l, strip, cols, [&](long g, const uint8_t* factors, const uint8_t* blocks, long count) {
      if (ahead && half == 0) fetch_ahead(factors, static_cast<int>(blocks - factors + count / kBlockCols * block_bytes));
      for (int plane = 0; plane < l.planes; ++plane) {
        Vec part[2][N];  // of even and odd tables, for a chain of additions each
        for (int c = 0; c < N; ++c) part[0][c] = part[1][c] = zero();
        const float* table = tables + g * l.group / 4 * kTable;
        for (long b = 0; b < count / kBlockCols; ++b, table += 8 * kTable) {
          const Words words = load_words(blocks + b * block_bytes + 64 * plane, half);
          for (int n = 0; n < 8; ++n) {
            const Index at = index_of(words, n);
            for (int c = 0; c < N; ++c) part[n % 2][c] = add(part[n % 2][c], pick(table + n * kTable + c * stride, at));
          }
        }
        const Vec alpha = load_half(halves(factors + 32 * plane, half));
        for (int c = 0; c < N; ++c) sum[c] = fma(alpha, add(part[0][c], part[1][c]), sum[c]);
      }
      const Vec z = load_half(halves(factors + 32 * l.planes, half));
      for (int c = 0; c < N; ++c) sum[c] = fma(z, set1(sums[c * groups + g]), sum[c]);
    });
    for (int c = 0; c < N; ++c) store_rows(y + c * y_stride + half, sum[c], rows - half);
  }
}

inline void look_up(const PlaneLayout& l, const uint8_t* strip, long cols, const float* tables, const float* sums,
                    int columns, float* y, long y_stride, int rows) {
  const long groups = group_count(l, cols), stride = cols / 4 * kTable;
  int c = 0;
  for (; c + 4 <= columns; c += 4)
    look_up_columns<4>(l, strip, cols, tables + c * stride, sums + c * groups, y + c * y_stride, y_stride, rows,
                       c == 0);
  for (; c + 2 <= columns; c += 2)
    look_up_columns<2>(l, strip, cols, tables + c * stride, sums + c * groups, y + c * y_stride, y_stride, rows,
                       c == 0);
  for (; c < columns; ++c)
    look_up_columns<1>(l, strip, cols, tables + c * stride, sums + c * groups, y + c * y_stride, y_stride, rows,
                       c == 0);
}

// ---- bipolar integers: bits of products, counted ----

// Bit i of eight bytes, as a byte.
inline uint32_t gather_bits(uint64_t bytes, int i) {
  return static_cast<uint32_t>((((bytes >> i) & 0x0101010101010101ull) * 0x0102040810204080ull) >> 56);
}

constexpr float kTiny = 1e-30f;  // groups of less are zero: the inverse of their scale would not fit

inline void bipolar_round(const float* x, long cols, int group, int bits, const BipolarColumn& out) {
  const float most = static_cast<float>((1 << bits) - 1);
  uint32_t* planes = out.planes;
  for (long first = 0, g = 0; first < cols; first += group, ++g) {
    const long last = std::min(first + group, cols);
    uint32_t top = 0;  // bits of magnitudes are ordered as these are, with infinity and NaN on top
    for (long k = first; k < last; ++k) top = std::max(top, bits_of(x[k]) & 0x7fffffffu);
    const bool finite = top < 0x7f800000u;
    const float amax = float_of_bits(top);
    const float scale = amax / most, inverse = finite && amax >= kTiny ? most / amax : 0.0f;
    out.scales[g] = finite ? scale : float_of_bits(0x7fc00000u);
    for (long k = first; k < last; k += kBlockCols) {
      uint8_t codes[kBlockCols];
      for (int i = 0; i < kBlockCols; ++i) {
        const float at = (finite ? x[k + i] * inverse + most : most) * 0.5f;
        const float code = std::nearbyintf(at);
        codes[i] = static_cast<uint8_t>(code < 0.0f ? 0.0f : code > most ? most : code);
      }
      for (int i = 0; i < bits; ++i) {
        uint32_t word = 0;
        for (int part = 0; part < 4; ++part) {
          uint64_t eight;
          std::memcpy(&eight, codes + 8 * part, 8);
          word |= gather_bits(eight, i) << (8 * part);
        }
        *planes++ = word;
      }
      if (out.values != nullptr)
        for (int i = 0; i < kBlockCols; ++i) out.values[k + i] = 2.0f * static_cast<float>(codes[i]) - most;
    }
  }
}

template <class Count, int N>
inline void bipolar_columns(const PlaneLayout& l, const uint8_t* strip, long cols, int bits, const uint32_t* planes,
                            const float* scales, float* y, long y_stride, int rows, bool ahead) {
  const long groups = group_count(l, cols), stride = cols / kBlockCols * bits;
  const size_t block_bytes = plane_block_bytes(l);
  const int most = ((1 << l.planes) - 1) * ((1 << bits) - 1);
  for (int half = 0; half < kStripRows; half += kLanes) {
    Vec sum[N];
    for (int c = 0; c < N; ++c) sum[c] = zero();
    each_group(l, strip, cols, [&](long g, const uint8_t* factors, const uint8_t* blocks, long count) {
      if (ahead && half == 0) fetch_ahead(factors, static_cast<int>(blocks - factors + count / kBlockCols * block_bytes));
      const uint32_t* column = planes + g * l.group / kBlockCols * bits;
      Words unequal[N];  // bits that differ, each at its weight
      for (int c = 0; c < N; ++c) unequal[c] = zero_words();
      for (int plane = 0; plane < l.planes; ++plane) {
        Words part[N];
        for (int c = 0; c < N; ++c) part[c] = zero_words();
        for (long b = 0; b < count / kBlockCols; ++b) {
          const Words words = load_words(blocks + b * block_bytes + 64 * plane, half);
          for (int c = 0; c < N; ++c)
            for (int j = 0; j < bits; ++j)
              part[c] = Count::count(part[c], flip(words, column[c * stride + b * bits + j]), j);
        }
        for (int c = 0; c < N; ++c) unequal[c] = add_words(unequal[c], shift_left(Count::total(part[c]), plane));
      }
      // Equal bits add and unequal ones subtract their weight: all of them less twice the unequal.
      const Vec all = set1(static_cast<float>(count * most));
      const Vec scale = load_half(halves(factors, half));
      for (int c = 0; c < N; ++c) {
        const Vec product = fma(floats_of(unequal[c]), set1(-2.0f), all);
        sum[c] = fma(product, mul(scale, set1(scales[c * groups + g])), sum[c]);
      }
    });
    for (int c = 0; c < N; ++c) store_rows(y + c * y_stride + half, sum[c], rows - half);
  }
}

template <class Count>
inline void bipolar(const PlaneLayout& l, const uint8_t* strip, long cols, int bits, const uint32_t* planes,
                    const float* scales, int columns, float* y, long y_stride, int rows) {
  const long groups = group_count(l, cols), stride = cols / kBlockCols * bits;
  int c = 0;
  for (; c + 4 <= columns; c += 4)
    bipolar_columns<Count, 4>(l, strip, cols, bits, planes + c * stride, scales + c * groups, y + c * y_stride,
                              y_stride, rows, c == 0);
  for (; c < columns; ++c)
    bipolar_columns<Count, 1>(l, strip, cols, bits, planes + c * stride, scales + c * groups, y + c * y_stride,
                              y_stride, rows, c == 0);
}

// ---- many columns: a strip is widened once for all of them ----

// Sums of a factor per plane with signs, and an offset, for the blocks of a group; w [count][16].
template <bool Coded>
inline void widen_group(const PlaneLayout& l, const uint8_t* blocks, long count, const float (*factors)[kStripRows],
                        float* w) {
  for (long b = 0; b < count / kBlockCols; ++b, blocks += plane_block_bytes(l), w += kBlockCols * kStripRows)
    for (int half = 0; half < kStripRows; half += kLanes) {
      Words words[kMostPlanes];
      Vec minus[kMostPlanes];
      for (int plane = 0; plane < l.planes; ++plane) {
        words[plane] = load_words(blocks + 64 * plane, half);
        if constexpr (Coded) words[plane] = plain_words(words[plane]);
        minus[plane] = sub(zero(), load(factors[plane] + half));
      }
      const Vec offset = load(factors[l.planes] + half);
      for (int k = 0; k < kBlockCols; ++k) {
        Vec value = offset;
        for (int plane = 0; plane < l.planes; ++plane) {
          const Words sign = and_words(shift_left(words[plane], kBlockCols - 1 - k), 0x80000000u);
          value = add(value, xor_bits(minus[plane], sign));
        }
        store(w + kStripRows * k + half, value);
      }
    }
}

inline void widen_coded(const PlaneLayout& l, const uint8_t* strip, long cols, float* w) {
  each_group(l, strip, cols, [&](long, const uint8_t* stored, const uint8_t* blocks, long count) {
    float factors[kMostPlanes + 1][kStripRows];
    for (int i = 0; i < l.factors; ++i)
      for (int r = 0; r < kStripRows; r += kLanes) store(factors[i] + r, load_half(halves(stored + 32 * i, r)));
    widen_group<true>(l, blocks, count, factors, w);
    w += kStripRows * count;
  });
}

inline void widen_bipolar(const PlaneLayout& l, const uint8_t* strip, long cols, float* w, float* scales) {
  float powers[kMostPlanes + 1][kStripRows] = {};
  for (int i = 0; i < l.planes; ++i)
    for (float& power : powers[i]) power = static_cast<float>(1 << i);
  each_group(l, strip, cols, [&](long, const uint8_t* stored, const uint8_t* blocks, long count) {
    for (int r = 0; r < kStripRows; r += kLanes) store(scales + r, load_half(halves(stored, r)));
    widen_group<false>(l, blocks, count, powers, w);
    scales += kStripRows;
    w += kStripRows * count;
  });
}

template <int N>
inline void wide_columns(const float* w, long cols, int group, const float* factors, const float* x,
                         const float* scales, float* y, long y_stride, int rows) {
  const long groups = (cols + group - 1) / group;
  for (int half = 0; half < kStripRows; half += kLanes) {
    Vec sum[N];
    for (int c = 0; c < N; ++c) sum[c] = zero();
    for (long g = 0; g < groups; ++g) {
      Vec part[N];
      for (int c = 0; c < N; ++c) part[c] = zero();
      for (long k = g * group; k < std::min<long>(g * group + group, cols); ++k) {
        const Vec values = load(w + kStripRows * k + half);
        for (int c = 0; c < N; ++c) part[c] = fma(values, set1(x[c * cols + k]), part[c]);
      }
      for (int c = 0; c < N; ++c) {
        if (factors == nullptr) {
          sum[c] = add(part[c], sum[c]);
        } else {
          const Vec scale = load(factors + kStripRows * g + half);
          sum[c] = fma(part[c], mul(scale, set1(scales[c * groups + g])), sum[c]);
        }
      }
    }
    for (int c = 0; c < N; ++c) store_rows(y + c * y_stride + half, sum[c], rows - half);
  }
}

inline void wide(const float* w, long cols, int group, const float* factors, const float* x, const float* scales,
                 int columns, float* y, long y_stride, int rows) {
  const long groups = (cols + group - 1) / group;
  int c = 0;
  for (; c + 8 <= columns; c += 8)
    wide_columns<8>(w, cols, group, factors, x + c * cols, scales + c * groups, y + c * y_stride, y_stride, rows);
  for (; c < columns; ++c)
    wide_columns<1>(w, cols, group, factors, x + c * cols, scales + c * groups, y + c * y_stride, y_stride, rows);
}

#if defined(TWOFOLD_ISA_AVX512) && defined(__AVX512VPOPCNTDQ__)

// Processors since Ice Lake count the bits of a word in one instruction.
struct WordCount {
  static Words count(Words sum, Words bits, int plane) {
    return _mm512_add_epi32(sum, _mm512_slli_epi32(_mm512_popcnt_epi32(bits), plane));
  }
  static Words total(Words sum) { return sum; }
};
using BitCount = WordCount;
constexpr int kCounting = 8;

#else

using BitCount = BytePairs;
constexpr int kCounting = 4;

#endif

inline PlaneKernels plane_kernels() {
  return {kTable, kCounting, make_tables, look_up, bipolar_round, bipolar<BitCount>, widen_coded, widen_bipolar, wide};
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
