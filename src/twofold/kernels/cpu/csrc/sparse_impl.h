// Products with sparse tiles, written once and compiled per instruction set: see sparse_kernels.h.
#pragma once

#include <array>

#include "simd.h"
#include "sparse_kernels.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// By byte of a mask: the positions of its bits, lowest first, then zeros.
struct BitPositions {
  alignas(64) int32_t of[256][8];

  constexpr BitPositions() : of{} {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0, n = 0; bit < 8; ++bit)
        if (byte >> bit & 1) of[byte][n++] = bit;
  }
};
constexpr BitPositions kBits;

// Values for the kLanes inputs from `col` on: those whose bit is set take the next of `values`, the others are zero.
// `values` moves on.
#if defined(TWOFOLD_ISA_AVX512)
inline Vec expand(const half*& values, const uint8_t* mask, int col, int cols) {
  unsigned bits = mask[col / 8];
  if (col + 8 < cols) bits |= static_cast<unsigned>(mask[col / 8 + 1]) << 8;
  const Vec out = _mm512_maskz_expand_ps(static_cast<__mmask16>(bits), load_half(values));
  values += __builtin_popcount(bits);
  return out;
}
#elif defined(TWOFOLD_ISA_AVX2)
// By byte of a mask: for each lane the value that it takes, with the sign bit where it takes none.
struct LaneSources {
  alignas(64) int32_t of[256][8];

  constexpr LaneSources() : of{} {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0, n = 0; bit < 8; ++bit) of[byte][bit] = byte >> bit & 1 ? n++ : -1;
  }
};
constexpr LaneSources kSources;

inline Vec expand(const half*& values, const uint8_t* mask, int col, int) {
  const unsigned bits = mask[col / 8];
  const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i*>(kSources.of[bits]));
  const __m256 moved = _mm256_permutevar8x32_ps(load_half(values), from);
  values += __builtin_popcount(bits);
  return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_srai_epi32(from, 31), _mm256_castps_si256(moved)));
}
#else
inline Vec expand(const half*& values, const uint8_t* mask, int col, int) {
  return mask[col / 8] >> (col % 8) & 1 ? half_to_float(*values++) : 0.0f;
}
#endif

template <int N>
inline void few_tokens(const SparseTile& tile, int first, int last, const float* x, long x_stride, const float* bias,
                       float* y, long y_stride) {
  for (int r = first; r < last; ++r) {
    const half* values = tile.values + static_cast<long>(r) * tile.kept;
    Vec sums[N];
    for (int t = 0; t < N; ++t) sums[t] = zero();
    if (tile.mask != nullptr) {
      const uint8_t* mask = tile.mask + static_cast<long>(r) * tile.mask_bytes();
      for (int c = 0; c < tile.cols; c += kLanes) {
        const Vec w = expand(values, mask, c, tile.cols);
        for (int t = 0; t < N; ++t) sums[t] = fma(w, load(x + t * x_stride + c), sums[t]);
      }
    } else {
      for (int c = 0; c < tile.cols; c += kLanes) {  // behind the last input x is zero
        Vec w = load_half(values + c);
        if (c + kLanes > tile.cols) w = keep(w, 0, tile.cols - c, zero());
        for (int t = 0; t < N; ++t) sums[t] = fma(w, load(x + t * x_stride + c), sums[t]);
      }
    }
    const long out = tile.output_of(r);
    for (int t = 0; t < N; ++t) y[t * y_stride + out] = sum(sums[t]) + (bias != nullptr ? bias[out] : 0.0f);
  }
}

inline void sparse_few(const SparseTile& tile, int first, int last, const float* x, long x_stride, int tokens,
                       const float* bias, float* y, long y_stride) {
  int t = 0;
  for (; t + 4 <= tokens; t += 4)
    few_tokens<4>(tile, first, last, x + t * x_stride, x_stride, bias, y + t * y_stride, y_stride);
  for (; t < tokens; ++t)
    few_tokens<1>(tile, first, last, x + t * x_stride, x_stride, bias, y + t * y_stride, y_stride);
}

// The inputs whose bits are set, as offsets into a panel [cols, kTokenChunk].
inline void list_kept(const uint8_t* mask, int cols, int32_t* list) {
  for (int c = 0; c < cols; c += 8) {
    const unsigned byte = mask[c / 8];
    const int32_t* bits = kBits.of[byte];
    for (int i = 0; i < 8; ++i) list[i] = (c + bits[i]) * kTokenChunk;
    list += __builtin_popcount(byte);
  }
}

template <int V>
inline void many_tokens(const SparseTile& tile, int first, int last, const float* x, int tokens, int32_t* list,
                        const float* bias, float* y, long y_stride) {
  if (tile.mask == nullptr)
    for (int i = 0; i < tile.kept; ++i) list[i] = i * kTokenChunk;
  for (int r = first; r < last; ++r) {
    if (tile.mask != nullptr) list_kept(tile.mask + static_cast<long>(r) * tile.mask_bytes(), tile.cols, list);
    const half* values = tile.values + static_cast<long>(r) * tile.kept;
    Vec sums[V];
    for (int v = 0; v < V; ++v) sums[v] = zero();
    for (int i = 0; i < tile.kept; ++i) {
      const Vec w = set1(half_value(values[i]));
      const float* at = x + list[i];
      for (int v = 0; v < V; ++v) sums[v] = fma(w, load(at + v * kLanes), sums[v]);
    }
    float row[V * kLanes];
    for (int v = 0; v < V; ++v) store(row + v * kLanes, sums[v]);
    const long out = tile.output_of(r);
    const float shift = bias != nullptr ? bias[out] : 0.0f;
    for (int t = 0; t < tokens; ++t) y[t * y_stride + out] = row[t] + shift;
  }
}

inline void sparse_many(const SparseTile& tile, int first, int last, const float* x, int tokens, int32_t* list,
                        const float* bias, float* y, long y_stride) {
  constexpr int kAll = kTokenChunk / kLanes;
  if (tokens * 2 > kTokenChunk || kAll == 1) {
    many_tokens<kAll>(tile, first, last, x, tokens, list, bias, y, y_stride);
  } else {
    many_tokens<(kAll + 1) / 2>(tile, first, last, x, tokens, list, bias, y, y_stride);
  }
}

inline SparseKernels sparse_kernels() { return {sparse_few, sparse_many}; }

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
