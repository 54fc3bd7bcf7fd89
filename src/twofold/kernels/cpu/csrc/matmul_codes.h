// The codes of a block in registers, 8 groups of 4 columns each, and their sums of products with int8 activations.
#pragma once

#include "matmul_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

struct HalfSums {
  int32_t low, high;  // of the first and the last 16 codes
};

#if defined(TWOFOLD_ISA_AVX512)

constexpr int kColumns = 12;
using Bytes = __m512i;  // 16 rows × 4 columns

inline Bytes load_bytes(const uint8_t* vector, int) { return _mm512_loadu_si512(vector); }
inline Bytes and_(Bytes a, int mask) { return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(mask))); }
inline Bytes or_(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
template <int N>
inline Bytes right(Bytes a) { return _mm512_srli_epi16(a, N); }
template <int N>
inline Bytes left(Bytes a) { return _mm512_slli_epi16(a, N); }
inline Vec value_of(Bytes group, int j) {
  return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(group, 8 * j), _mm512_set1_epi32(0xff)));
}
inline Vec load_u8(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline __m512i splat(const int8_t* x, int group) {
  int32_t four;
  std::memcpy(&four, x + 4 * group, 4);
  return _mm512_set1_epi32(four);
}
// Calls take(c, sums) with the sums of products of groups [G, G + Count) with columns c < N, which lie `stride` apart
// from x on: exact in int32, as floats. Any 8-bit code. Columns go side by side, for each is a chain of sums; where
// there are few, each has two.
template <int Largest, int G, int Count, int N, class Take>
inline void dot_groups(const Bytes* w, const int8_t* x, long stride, const Take& take) {
  constexpr int kChains = N <= 3 ? 2 : 1;
  __m512i sums[kChains][N];
#pragma GCC unroll 2
  for (int i = 0; i < kChains; ++i)
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c) sums[i][c] = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int g = G; g < G + Count; ++g)
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c)
      sums[g % kChains][c] = _mm512_dpbusd_epi32(sums[g % kChains][c], w[g], splat(x + c * stride, g));
#pragma GCC unroll 16
  for (int c = 0; c < N; ++c) {
    if constexpr (kChains == 2) sums[0][c] = _mm512_add_epi32(sums[0][c], sums[1][c]);
    take(c, _mm512_cvtepi32_ps(sums[0][c]));
  }
}
inline HalfSums round_codes(const float* x, float inverse, int8_t* codes) {
  const Vec scale = set1(inverse);
  const __m512i low = _mm512_cvtps_epi32(mul(load(x), scale)), high = _mm512_cvtps_epi32(mul(load(x + 16), scale));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(low));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtepi32_epi8(high));
  return {_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)};
}

#elif defined(TWOFOLD_ISA_AVX2)

constexpr int kColumns = 4;
using Bytes = __m256i;  // 8 rows × 4 columns

inline Bytes load_bytes(const uint8_t* vector, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(vector + 4 * half));
}
inline Bytes and_(Bytes a, int mask) { return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(mask))); }
inline Bytes or_(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
template <int N>
inline Bytes right(Bytes a) { return _mm256_srli_epi16(a, N); }
template <int N>
inline Bytes left(Bytes a) { return _mm256_slli_epi16(a, N); }
inline Vec value_of(Bytes group, int j) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(group, 8 * j), _mm256_set1_epi32(0xff)));
}
inline Vec load_u8(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline __m256i splat(const int8_t* x, int group) {
  int32_t four;
  std::memcpy(&four, x + 4 * group, 4);
  return _mm256_set1_epi32(four);
}
// Sums of products of groups [G, G + Count) with one column, exact in int32, as floats.
// Largest: of a code. `maddubs` adds two products in int16, which holds 2 · Largest · 127 times Room before it is
// widened. A code of 8 bits has no room: |w - 128| · ±x is at most 2 · 128 · 127 = 32,512, which just fits.
template <int Largest, int G, int Count>
inline Vec dot_column(const Bytes* w, const int8_t* x) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i total = _mm256_setzero_si256();
  if constexpr (Largest > 127) {
    const __m256i middle = _mm256_set1_epi8(static_cast<char>(0x80));
    for (int g = G; g < G + Count; ++g) {
      const __m256i s = _mm256_xor_si256(w[g], middle);  // code - 128, signed
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(splat(x, g), s));
      total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, ones));
    }
  } else {
    constexpr int kRoom = 32767 / (2 * Largest * 127);
    constexpr int kTogether = kRoom >= 8 ? 8 : kRoom >= 4 ? 4 : 2;
    static_assert(kRoom >= 2);
    for (int g = G; g < G + Count; g += kTogether) {
      __m256i pairs = _mm256_maddubs_epi16(w[g], splat(x, g));
      for (int i = g + 1; i < g + kTogether && i < G + Count; ++i)
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[i], splat(x, i)));
      total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, ones));
    }
  }
  return _mm256_cvtepi32_ps(total);
}
inline HalfSums round_codes(const float* x, float inverse, int8_t* codes) {
  HalfSums sums{0, 0};
  const Vec scale = set1(inverse);
  for (int h = 0; h < 2; ++h) {
    const __m256i a = _mm256_cvtps_epi32(mul(load(x + 16 * h), scale));
    const __m256i b = _mm256_cvtps_epi32(mul(load(x + 16 * h + 8), scale));
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * h), bytes);
    __m256i both = _mm256_add_epi32(a, b);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    (h == 0 ? sums.low : sums.high) = _mm_cvtsi128_si32(s);
  }
  return sums;
}

#else  // scalar: one row, four bytes

constexpr int kColumns = 4;
struct Bytes {
  uint8_t b[4];
};

inline Bytes load_bytes(const uint8_t* vector, int half) {
  Bytes out;
  std::memcpy(out.b, vector + 4 * half, 4);
  return out;
}
inline Bytes and_(Bytes a, int mask) {
  for (uint8_t& b : a.b) b &= static_cast<uint8_t>(mask);
  return a;
}
inline Bytes or_(Bytes a, Bytes o) {
  for (int i = 0; i < 4; ++i) a.b[i] |= o.b[i];
  return a;
}
template <int N>
inline Bytes right(Bytes a) {
  for (uint8_t& b : a.b) b = static_cast<uint8_t>(b >> N);
  return a;
}
template <int N>
inline Bytes left(Bytes a) {
  for (uint8_t& b : a.b) b = static_cast<uint8_t>(b << N);
  return a;
}
inline Vec value_of(const Bytes& group, int j) { return group.b[j]; }
inline Vec load_u8(const uint8_t* p) { return *p; }
template <int Largest, int G, int Count>
inline Vec dot_column(const Bytes* w, const int8_t* x) {
  int32_t total = 0;
  for (int g = G; g < G + Count; ++g)
    for (int j = 0; j < 4; ++j) total += static_cast<int32_t>(w[g].b[j]) * x[4 * g + j];
  return static_cast<float>(total);
}
inline HalfSums round_codes(const float* x, float inverse, int8_t* codes) {
  HalfSums sums{0, 0};
  for (int i = 0; i < kBlockCols; ++i) {
    codes[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    (i < 16 ? sums.low : sums.high) += codes[i];
  }
  return sums;
}

#endif

#if !defined(TWOFOLD_ISA_AVX512)
// Calls take(c, sums) with the sums of products of groups [G, G + Count) with columns c < N, which lie `stride` apart
// from x on: exact in int32, as floats.
template <int Largest, int G, int Count, int N, class Take>
inline void dot_groups(const Bytes* w, const int8_t* x, long stride, const Take& take) {
  for (int c = 0; c < N; ++c) take(c, dot_column<Largest, G, Count>(w, x + c * stride));
}
#endif

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
