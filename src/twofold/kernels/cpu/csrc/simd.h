// Vectors of float32 for the kernels that are written once and compiled per instruction set.
//
// TWOFOLD_ISA names the namespace (scalar, avx2, avx512). `Vec` holds kLanes floats. Partial loads and stores touch
// only the first `n` elements. Everything here is inline; include it only from kernels_<isa>.cpp, directly or not.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

#if !defined(TWOFOLD_ISA)
#error "include simd.h from a kernels_<isa>.cpp file, which defines TWOFOLD_ISA"
#endif

#if defined(TWOFOLD_ISA_AVX512) || defined(TWOFOLD_ISA_AVX2)
#include <immintrin.h>
#endif

namespace twofold::TWOFOLD_ISA {

using half = uint16_t;  // IEEE binary16 bits

#if defined(TWOFOLD_ISA_AVX512)

constexpr int kLanes = 16;
using Vec = __m512;
inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void store(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
inline Vec load_half(const half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline void store_half(half* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Vec load_int8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec abs(Vec a) { return _mm512_abs_ps(a); }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }
inline float max_of(Vec a) { return _mm512_reduce_max_ps(a); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec power_of_two(Vec n) { return _mm512_scalef_ps(set1(1.0f), n); }  // n integral
inline float half_value(half h) { return _cvtsh_ss(h); }
inline half half_bits(float x) { return static_cast<half>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
// Lanes lo <= i < hi of v, `other` elsewhere; lo and hi may lie outside the vector.
inline Vec keep(Vec v, int lo, int hi, Vec other) {
  const unsigned from = lo <= 0 ? 0u : lo >= 16 ? 16u : static_cast<unsigned>(lo);
  const unsigned to = hi <= 0 ? 0u : hi >= 16 ? 16u : static_cast<unsigned>(hi);
  return _mm512_mask_blend_ps(static_cast<__mmask16>(((1u << to) - 1u) & ~((1u << from) - 1u)), other, v);
}
// Low and high 4-bit codes of kLanes bytes.
inline void load_nibbles(const uint8_t* p, Vec& low, Vec& high) {
  const __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  low = _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32(15)));
  high = _mm512_cvtepi32_ps(_mm512_srli_epi32(x, 4));
}
// 32 codes of 2, 4 or 8 bits: byte j of n holds codes j, j + n, j + 2 n … , the first lowest. Calls use(i, codes i …
// i + kLanes - 1) in order.
template <int Bits, typename Use>
inline void each_code(const uint8_t* p, Use use) {
  const auto wide = [](__m128i bytes) { return _mm512_cvtepu8_epi32(bytes); };
  if constexpr (Bits == 8) {
    for (int i = 0; i < 32; i += 16)
      use(i, _mm512_cvtepi32_ps(wide(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i)))));
  } else if constexpr (Bits == 4) {
    const __m512i x = wide(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    use(0, _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32(15))));
    use(16, _mm512_cvtepi32_ps(_mm512_srli_epi32(x, 4)));
  } else {
    const __m512i x = wide(_mm_set1_epi64x(*reinterpret_cast<const int64_t*>(p)));
    const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
    const __m512i low = _mm512_srlv_epi32(x, shift), mask = _mm512_set1_epi32(3);
    use(0, _mm512_cvtepi32_ps(_mm512_and_si512(low, mask)));
    use(16, _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(low, 4), mask)));
  }
}
inline Vec select_less(Vec a, Vec b, Vec yes, Vec no) {  // a < b ? yes : no
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline unsigned greater_lanes(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }  // a bit per lane
inline Vec reciprocal(Vec a) {  // relative error below 2e-7; a Newton step costs a third of a division
  const Vec r = _mm512_rcp14_ps(a);
  return _mm512_fmadd_ps(_mm512_fnmadd_ps(a, r, set1(1.0f)), r, r);
}

#elif defined(TWOFOLD_ISA_AVX2)

constexpr int kLanes = 8;
using Vec = __m256;
inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void store(float* p, Vec v, int n) { _mm256_maskstore_ps(p, first(n), v); }
inline Vec load_half(const half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store_half(half* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Vec load_int8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline float sum(Vec a) {
  __m128 v = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
inline float max_of(Vec a) {
  __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
inline Vec round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec power_of_two(Vec n) {
  const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_castsi256_ps(bits);
}
inline float half_value(half h) { return _cvtsh_ss(h); }
inline half half_bits(float x) { return static_cast<half>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
inline Vec keep(Vec v, int lo, int hi, Vec other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(lo), lane);
  const __m256i inside = _mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), lane));
  return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(inside));
}
inline void load_nibbles(const uint8_t* p, Vec& low, Vec& high) {
  const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  low = _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(15)));
  high = _mm256_cvtepi32_ps(_mm256_srli_epi32(x, 4));
}
template <int Bits, typename Use>
inline void each_code(const uint8_t* p, Use use) {
  constexpr int kBytes = 32 * Bits / 8;
  for (int part = 0; part < 8 / Bits; ++part)
    for (int i = 0; i < kBytes; i += 8) {
      const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + i)));
      const __m256i code = _mm256_and_si256(_mm256_srli_epi32(x, Bits * part), _mm256_set1_epi32((1 << Bits) - 1));
      use(part * kBytes + i, _mm256_cvtepi32_ps(code));
    }
}
inline Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline unsigned greater_lanes(Vec a, Vec b) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
}
inline Vec reciprocal(Vec a) { return _mm256_div_ps(set1(1.0f), a); }

#else  // scalar

constexpr int kLanes = 1;
using Vec = float;

inline Vec zero() { return 0.0f; }
inline Vec set1(float x) { return x; }
inline Vec load(const float* p) { return *p; }
inline Vec load(const float* p, int n) { return n > 0 ? *p : 0.0f; }
inline void store(float* p, Vec v) { *p = v; }
inline void store(float* p, Vec v, int n) {
  if (n > 0) *p = v;
}
inline Vec load_half(const half* p) { return half_to_float(*p); }
inline void store_half(half* p, Vec v) { *p = float_to_half(v); }
inline Vec load_int8(const int8_t* p) { return *p; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec div(Vec a, Vec b) { return a / b; }
inline Vec fma(Vec a, Vec b, Vec c) { return std::fma(a, b, c); }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec abs(Vec a) { return std::fabs(a); }
inline float sum(Vec a) { return a; }
inline float max_of(Vec a) { return a; }
inline Vec round(Vec a) { return std::nearbyint(a); }
inline Vec power_of_two(Vec n) { return std::ldexp(1.0f, static_cast<int>(n)); }
inline float half_value(half h) { return half_to_float(h); }
inline half half_bits(float x) { return float_to_half(x); }
inline Vec keep(Vec v, int lo, int hi, Vec other) { return lo <= 0 && hi > 0 ? v : other; }
inline void load_nibbles(const uint8_t* p, Vec& low, Vec& high) {
  low = static_cast<float>(*p & 15);
  high = static_cast<float>(*p >> 4);
}
template <int Bits, typename Use>
inline void each_code(const uint8_t* p, Use use) {
  constexpr int kBytes = 32 * Bits / 8;
  for (int part = 0; part < 8 / Bits; ++part)
    for (int i = 0; i < kBytes; ++i)
      use(part * kBytes + i, static_cast<float>((p[i] >> (Bits * part)) & ((1 << Bits) - 1)));
}
inline Vec select_less(Vec a, Vec b, Vec yes, Vec no) { return a < b ? yes : no; }
inline unsigned greater_lanes(Vec a, Vec b) { return a > b; }
inline Vec reciprocal(Vec a) { return 1.0f / a; }

#endif

// exp(x) as the result times two to the integral n, relative error below 2e-7. Cody-Waite reduction and the polynomial
// of Cephes' expf (S. Moshier), whose coefficients are minimax on [-ln2/2, ln2/2].
inline Vec exp_parts(Vec x, Vec& n) {
  n = round(mul(x, set1(1.44269504f)));
  x = fma(n, set1(-0.693359375f), x);
  x = fma(n, set1(2.12194440e-4f), x);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, x, set1(1.3981999507e-3f));
  p = fma(p, x, set1(8.3334519073e-3f));
  p = fma(p, x, set1(4.1665795894e-2f));
  p = fma(p, x, set1(1.6666665459e-1f));
  p = fma(p, x, set1(5.0000001201e-1f));
  return add(fma(p, mul(x, x), x), set1(1.0f));
}

// exp(x); x is clamped to [-87, 88].
inline Vec exp(Vec x) {
  Vec n;
  const Vec mantissa = exp_parts(min(max(x, set1(-87.0f)), set1(88.0f)), n);
  return mul(mantissa, power_of_two(n));
}

}  // namespace twofold::TWOFOLD_ISA
