// How an instruction set unpacks a block of 16 (or 8) rows × 32 columns and multiplies it with int8 activations.
//
// A format's `unpack(block, header, half)` returns a Block: the codes of rows half … half + kLanes - 1, their D and M.
// Block::dot(x, meta, sum) adds a column's part; value(group, j) gives codes as floats; combine(low, high, meta, sum)
// adds the float32 dot products of codes with the first and last 16 columns.
#pragma once

#include "matmul_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

struct HalfSums {
  int32_t low, high;  // of the first and the last 16 codes
};

// ---- the codes of a block in registers: 8 groups ----

#if defined(TWOFOLD_ISA_AVX512)

constexpr int kColumns = 8;
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
// Sums of products of groups [G, G + count) with x, exact in int32, as floats. Any 8-bit code.
template <int Largest, int G, int Count>
inline Vec dot_groups(const Bytes* w, const int8_t* x) {
  __m512i a = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[G], splat(x, G));
  __m512i b = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[G + 1], splat(x, G + 1));
  for (int g = G + 2; g < G + Count; g += 2) {
    a = _mm512_dpbusd_epi32(a, w[g], splat(x, g));
    b = _mm512_dpbusd_epi32(b, w[g + 1], splat(x, g + 1));
  }
  return _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
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
// Sums of products of groups [G, G + count) with x, exact in int32, as floats.
// Largest: of a code. `maddubs` adds two products in int16, which holds 2 · Largest · 127 times Room before it is
// widened. A code of 8 bits has no room: |w - 128| · ±x is at most 2 · 128 · 127 = 32,512, which just fits.
template <int Largest, int G, int Count>
inline Vec dot_groups(const Bytes* w, const int8_t* x) {
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
inline Vec dot_groups(const Bytes* w, const int8_t* x) {
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

// ---- blocks ----

// AVX2 multiplies 8-bit codes as signed values, so that no offset is left to add.
#if defined(TWOFOLD_ISA_AVX2)
constexpr bool kSignedBytes = true;
#else
constexpr bool kSignedBytes = false;
#endif

// A block whose rows have one D, and either an M of their own or M = -Offset · D.
template <int Largest, int Offset>
struct Block {
  Bytes codes[8];
  Vec d, m;

  Vec dot(const int8_t* x, const BlockMeta& meta, Vec total) const {
    const Vec products = dot_groups<Largest, 0, 8>(codes, x);
    if constexpr (Offset == 0) {
      return fma(m, set1(meta.sum), fma(products, mul(d, set1(meta.scale)), total));
    } else if constexpr (Largest > 127 && kSignedBytes) {
      return fma(products, mul(d, set1(meta.scale)), total);
    } else {
      const Vec centred = fma(set1(meta.total), set1(-Offset), products);
      return fma(centred, mul(d, set1(meta.scale)), total);
    }
  }
  Vec value(int group, int j) const { return value_of(codes[group], j); }
  Vec combine(Vec low, Vec high, const BlockMeta& meta, Vec total) const {
    if constexpr (Offset == 0) return fma(m, set1(meta.sum), fma(add(low, high), d, total));
    return fma(fma(set1(meta.total), set1(-Offset), add(low, high)), d, total);
  }
};

// A block whose rows have one D for the first and one for the last 16 columns, each with M = -Offset · D.
template <int Largest, int Offset>
struct SplitBlock {
  Bytes codes[8];
  Vec low, high;

  Vec dot(const int8_t* x, const BlockMeta& meta, Vec total) const {
    const Vec a = fma(set1(meta.low), set1(-Offset), dot_groups<Largest, 0, 4>(codes, x));
    const Vec b = fma(set1(meta.high), set1(-Offset), dot_groups<Largest, 4, 4>(codes, x));
    return fma(fma(b, high, mul(a, low)), set1(meta.scale), total);
  }
  Vec value(int group, int j) const { return value_of(codes[group], j); }
  Vec combine(Vec a, Vec b, const BlockMeta& meta, Vec total) const {
    a = fma(set1(meta.low), set1(-Offset), a);
    b = fma(set1(meta.high), set1(-Offset), b);
    return fma(b, high, fma(a, low, total));
  }
};

inline void unpack_4(Bytes* codes, const uint8_t* p, int half) {
  for (int v = 0; v < 4; ++v) {
    const Bytes two = load_bytes(p + 64 * v, half);
    codes[2 * v] = and_(two, 0x0f);
    codes[2 * v + 1] = and_(right<4>(two), 0x0f);
  }
}

inline void add_fifth(Bytes* codes, const uint8_t* p, int half) {
  const Bytes bits = load_bytes(p, half);
  codes[0] = or_(codes[0], and_(left<4>(bits), 0x10));
  codes[1] = or_(codes[1], and_(left<3>(bits), 0x10));
  codes[2] = or_(codes[2], and_(left<2>(bits), 0x10));
  codes[3] = or_(codes[3], and_(left<1>(bits), 0x10));
  codes[4] = or_(codes[4], and_(bits, 0x10));
  codes[5] = or_(codes[5], and_(right<1>(bits), 0x10));
  codes[6] = or_(codes[6], and_(right<2>(bits), 0x10));
  codes[7] = or_(codes[7], and_(right<3>(bits), 0x10));
}

inline void add_fifth_and_sixth(Bytes* codes, const uint8_t* p, int half) {
  for (int v = 0; v < 2; ++v) {
    const Bytes bits = load_bytes(p + 64 * v, half);
    Bytes* c = codes + 4 * v;
    c[0] = or_(c[0], and_(left<4>(bits), 0x30));
    c[1] = or_(c[1], and_(left<2>(bits), 0x30));
    c[2] = or_(c[2], and_(bits, 0x30));
    c[3] = or_(c[3], and_(right<2>(bits), 0x30));
  }
}

inline const half* halves(const uint8_t* p, int row) { return reinterpret_cast<const half*>(p) + row; }

// Formats of 32-column blocks: Bits per code, an fp16 scale, and either an fp16 minimum or a fixed Offset.
template <int Bits, int Offset>
struct Plain {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kScales = Offset == 0 ? 64 : 32;
  static constexpr int kBlock = kScales + (Bits == 8 ? 512 : Bits == 5 ? 320 : 256);

  static Block<(1 << Bits) - 1, Offset> unpack(const uint8_t* p, const uint8_t*, int row) {
    Block<(1 << Bits) - 1, Offset> out;
    out.d = load_half(halves(p, row));
    if constexpr (Offset == 0) out.m = load_half(halves(p + 32, row));
    p += kScales;
    if constexpr (Bits == 8) {
      for (int g = 0; g < 8; ++g) out.codes[g] = load_bytes(p + 64 * g, row);
    } else if constexpr (Bits == 5) {
      unpack_4(out.codes, p + 64, row);
      add_fifth(out.codes, p, row);
    } else {
      unpack_4(out.codes, p, row);
    }
    return out;
  }
};
using Q4_0 = Plain<4, 8>;
using Q4_1 = Plain<4, 0>;
using Q5_0 = Plain<5, 16>;
using Q5_1 = Plain<5, 0>;
using Q8_0 = Plain<8, 128>;

// Super-blocks of 256 columns: 8-bit scales and minima of every 32, fp16 factors for both.
template <int Bits>
struct Super {
  static constexpr int kHeader = 64, kPeriod = 8;
  static constexpr int kBlock = 32 + (Bits == 5 ? 320 : 256);

  static Block<(1 << Bits) - 1, 0> unpack(const uint8_t* p, const uint8_t* header, int row) {
    Block<(1 << Bits) - 1, 0> out;
    out.d = mul(load_half(halves(header, row)), load_u8(p + row));
    out.m = sub(zero(), mul(load_half(halves(header + 32, row)), load_u8(p + 16 + row)));
    if constexpr (Bits == 5) {
      unpack_4(out.codes, p + 96, row);
      add_fifth(out.codes, p + 32, row);
    } else {
      unpack_4(out.codes, p + 32, row);
    }
    return out;
  }
};
using Q4_K = Super<4>;
using Q5_K = Super<5>;

struct Q6_K {
  static constexpr int kHeader = 32, kPeriod = 8;
  static constexpr int kBlock = 32 + 128 + 256;

  static SplitBlock<63, 32> unpack(const uint8_t* p, const uint8_t* header, int row) {
    SplitBlock<63, 32> out;
    const Vec d = load_half(halves(header, row));
    out.low = mul(d, load_int8(reinterpret_cast<const int8_t*>(p) + row));
    out.high = mul(d, load_int8(reinterpret_cast<const int8_t*>(p) + 16 + row));
    unpack_4(out.codes, p + 160, row);
    add_fifth_and_sixth(out.codes, p + 32, row);
    return out;
  }
};

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
