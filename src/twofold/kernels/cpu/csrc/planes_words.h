// 32-bit words, a lane for each of kLanes rows: what planes of bits are looked up and counted with.
#pragma once

#include "block_values.h"
#include "matmul_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// A table holds the signed sums of four columns. Where 16 floats fill a vector it holds all, in the order of the codes;
// of eight it holds those whose last sign is minus, and the code's sign bit flips the result.
#if defined(TWOFOLD_ISA_AVX512)

constexpr int kTable = 16;
using Words = __m512i;
struct Index {
  Words low;
};

inline Words load_words(const uint8_t* p, int) { return _mm512_loadu_si512(p); }
inline Words zero_words() { return _mm512_setzero_si512(); }
inline Words flip(Words a, uint32_t with) { return _mm512_xor_si512(a, _mm512_set1_epi32(static_cast<int>(with))); }
inline Words add_words(Words a, Words b) { return _mm512_add_epi32(a, b); }
inline Words shift_left(Words a, int n) { return _mm512_slli_epi32(a, n); }
inline Vec floats_of(Words a) { return _mm512_cvtepi32_ps(a); }
inline Words shift_right(Words a, int n) { return _mm512_srli_epi32(a, n); }
inline Words and_words(Words a, uint32_t mask) { return _mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(mask))); }
inline Words sub_words(Words a, Words b) { return _mm512_sub_epi32(a, b); }
inline Words xor_words(Words a, Words b) { return _mm512_xor_si512(a, b); }
inline Vec xor_bits(Vec a, Words b) { return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), b)); }
inline Index index_of(Words w, int n) { return {shift_right(w, 4 * n)}; }
inline Vec pick(const float* table, const Index& at) { return _mm512_permutexvar_ps(at.low, load(table)); }

// Bits that are set, 16-bit sums of which stay below 2^15 for kMostGroup columns and all planes of a column.
struct BytePairs {
  static Words count(Words sum, Words bits, int plane) {
    const Words four = _mm512_set1_epi8(0x0f);
    const Words table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    Words bytes = _mm512_add_epi8(_mm512_shuffle_epi8(table, _mm512_and_si512(bits, four)),
                                  _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bits, 4), four)));
    if (plane == 7) bytes = _mm512_add_epi8(bytes, bytes);
    const Words weight = _mm512_set1_epi8(static_cast<char>(1 << (plane < 7 ? plane : 6)));
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(bytes, weight));
  }
  static Words total(Words sum) { return _mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
};

#elif defined(TWOFOLD_ISA_AVX2)

constexpr int kTable = 8;
using Words = __m256i;
struct Index {
  Words low;
  Vec sign;
};

inline Words load_words(const uint8_t* p, int row) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 4 * row));
}
inline Words zero_words() { return _mm256_setzero_si256(); }
inline Words flip(Words a, uint32_t with) { return _mm256_xor_si256(a, _mm256_set1_epi32(static_cast<int>(with))); }
inline Words add_words(Words a, Words b) { return _mm256_add_epi32(a, b); }
inline Words shift_left(Words a, int n) { return _mm256_slli_epi32(a, n); }
inline Vec floats_of(Words a) { return _mm256_cvtepi32_ps(a); }
inline Words shift_right(Words a, int n) { return _mm256_srli_epi32(a, n); }
inline Words and_words(Words a, uint32_t mask) { return _mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(mask))); }
inline Words sub_words(Words a, Words b) { return _mm256_sub_epi32(a, b); }
inline Words xor_words(Words a, Words b) { return _mm256_xor_si256(a, b); }
inline Vec xor_bits(Vec a, Words b) { return _mm256_xor_ps(a, _mm256_castsi256_ps(b)); }
inline Index index_of(Words w, int n) {
  const Vec bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(w, 28 - 4 * n));
  return {shift_right(w, 4 * n), _mm256_and_ps(bit3, _mm256_set1_ps(-0.0f))};
}
inline Vec pick(const float* table, const Index& at) {
  return _mm256_xor_ps(_mm256_permutevar8x32_ps(load(table), at.low), at.sign);
}

struct BytePairs {
  static Words count(Words sum, Words bits, int plane) {
    const Words four = _mm256_set1_epi8(0x0f);
    const Words table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    Words bytes = _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(bits, four)),
                                  _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), four)));
    if (plane == 7) bytes = _mm256_add_epi8(bytes, bytes);
    const Words weight = _mm256_set1_epi8(static_cast<char>(1 << (plane < 7 ? plane : 6)));
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, weight));
  }
  static Words total(Words sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
};

#else  // scalar: one row

constexpr int kTable = 16;
using Words = uint32_t;
struct Index {
  uint32_t low;
};

inline Words load_words(const uint8_t* p, int row) {
  uint32_t out;
  std::memcpy(&out, p + 4 * row, 4);
  return out;
}
inline Words zero_words() { return 0; }
inline Words flip(Words a, uint32_t with) { return a ^ with; }
inline Words add_words(Words a, Words b) { return a + b; }
inline Words shift_left(Words a, int n) { return a << n; }
inline Vec floats_of(Words a) { return static_cast<float>(static_cast<int32_t>(a)); }
inline Words shift_right(Words a, int n) { return a >> n; }
inline Words and_words(Words a, uint32_t mask) { return a & mask; }
inline Words sub_words(Words a, Words b) { return a - b; }
inline Words xor_words(Words a, Words b) { return a ^ b; }
inline Vec xor_bits(Vec a, Words b) { return float_of_bits(bits_of(a) ^ b); }
inline Index index_of(Words w, int n) { return {(w >> (4 * n)) & 15u}; }
inline Vec pick(const float* table, const Index& at) { return table[at.low]; }

struct BytePairs {
  static Words count(Words sum, Words bits, int plane) {
    return sum + (static_cast<uint32_t>(__builtin_popcount(bits)) << plane);
  }
  static Words total(Words sum) { return sum; }
};

#endif

// `plain_bits` of every lane.
inline Words plain_words(Words coded) {
  const Words clear = and_words(flip(coded, 0xffffffffu), 0x88888888u);
  return xor_words(coded, sub_words(clear, shift_right(clear, 3)));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
