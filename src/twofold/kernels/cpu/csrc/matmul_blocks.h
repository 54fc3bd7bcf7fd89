// Block formats of symmetric integers and of 4-bit floats: their scales, and how a block of them is unpacked.
#pragma once

#include "block_values.h"
#include "matmul_dot.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// ---- scales of kLanes rows as factors, and codes through a table of 16 ----

#if defined(TWOFOLD_ISA_AVX512)

// 2^(s - 127). The least, 2^-127, is subnormal: its bits are not those of an exponent.
inline Vec load_e8m0(const uint8_t* p) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000)));
}
// An E4M3 number without sign is a binary16 whose exponent's bias is larger by 8, subnormals included.
inline Vec load_e4m3(const uint8_t* p) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return mul(_mm512_cvtph_ps(_mm256_slli_epi16(words, 7)), set1(256.0f));
}
inline Vec load_bf16(const uint16_t* p) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
inline Bytes look_up(Bytes codes, const uint8_t* table) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), codes);
}

#elif defined(TWOFOLD_ISA_AVX2)

inline Vec load_e8m0(const uint8_t* p) {
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(0x00400000)));
}
inline Vec load_e4m3(const uint8_t* p) {
  const __m128i words = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return mul(_mm256_cvtph_ps(_mm_slli_epi16(words, 7)), set1(256.0f));
}
inline Vec load_bf16(const uint16_t* p) {
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
inline Bytes look_up(Bytes codes, const uint8_t* table) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), codes);
}

#else

inline Vec load_e8m0(const uint8_t* p) { return e8m0_value(*p); }
inline Vec load_e4m3(const uint8_t* p) { return e4m3_value(*p); }
inline Vec load_bf16(const uint16_t* p) { return bf16_value(*p); }
inline Bytes look_up(Bytes codes, const uint8_t* table) {
  for (uint8_t& b : codes.b) b = table[b];
  return codes;
}

#endif

// ---- formats ----

inline void unpack_fp4(Bytes* codes, const uint8_t* p, int half) {
  unpack_4(codes, p, half);
  for (int g = 0; g < 8; ++g) codes[g] = look_up(codes[g], kTwiceE2M1);
}

// Integers of Bits with an E8M0 scale for 32.
template <int Bits>
struct MxInt {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kBlock = 16 + 64 * Bits;

  static Block<(1 << Bits) - 1, 1 << (Bits - 1)> unpack(const uint8_t* p, const uint8_t*, int row) {
    Block<(1 << Bits) - 1, 1 << (Bits - 1)> out;
    out.d = load_e8m0(p + row);
    p += 16;
    if constexpr (Bits == 8) {
      for (int g = 0; g < 8; ++g) out.codes[g] = load_bytes(p + 64 * g, row);
    } else if constexpr (Bits == 6) {
      unpack_4(out.codes, p + 128, row);
      add_fifth_and_sixth(out.codes, p, row);
    } else {
      unpack_4(out.codes, p, row);
    }
    return out;
  }
};

// E2M1 with an E8M0 scale for 32.
struct MxFp4 {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kBlock = 16 + 256;

  static Block<24, 12> unpack(const uint8_t* p, const uint8_t*, int row) {
    Block<24, 12> out;
    out.d = mul(load_e8m0(p + row), set1(0.5f));
    unpack_fp4(out.codes, p + 16, row);
    return out;
  }
};

// Integers of 4 bits, or E2M1, with an E4M3 scale for 16; the matrix's own scale is left to the caller.
struct NvInt4 {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kBlock = 32 + 256;

  static SplitBlock<15, 8> unpack(const uint8_t* p, const uint8_t*, int row) {
    SplitBlock<15, 8> out;
    out.low = load_e4m3(p + row);
    out.high = load_e4m3(p + 16 + row);
    unpack_4(out.codes, p + 32, row);
    return out;
  }
};

struct NvFp4 {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kBlock = 32 + 256;

  static SplitBlock<24, 12> unpack(const uint8_t* p, const uint8_t*, int row) {
    SplitBlock<24, 12> out;
    out.low = mul(load_e4m3(p + row), set1(0.5f));
    out.high = mul(load_e4m3(p + 16 + row), set1(0.5f));
    unpack_fp4(out.codes, p + 32, row);
    return out;
  }
};

inline void unpack_3(Bytes* codes, const uint8_t* p, int half) {
  for (int v = 0; v < 2; ++v) {
    const Bytes four = load_bytes(p + 64 * v, half);
    Bytes* c = codes + 4 * v;
    c[0] = and_(four, 0x03);
    c[1] = and_(right<2>(four), 0x03);
    c[2] = and_(right<4>(four), 0x03);
    c[3] = and_(right<6>(four), 0x03);
  }
  const Bytes third = load_bytes(p + 128, half);
  codes[0] = or_(codes[0], and_(left<2>(third), 0x04));
  codes[1] = or_(codes[1], and_(left<1>(third), 0x04));
  codes[2] = or_(codes[2], and_(third, 0x04));
  codes[3] = or_(codes[3], and_(right<1>(third), 0x04));
  codes[4] = or_(codes[4], and_(right<2>(third), 0x04));
  codes[5] = or_(codes[5], and_(right<3>(third), 0x04));
  codes[6] = or_(codes[6], and_(right<4>(third), 0x04));
  codes[7] = or_(codes[7], and_(right<5>(third), 0x04));
}

// Integers of 3, 4 or 8 bits with a bfloat16 scale for Period blocks.
template <int Bits, int Period>
struct IntGroup {
  static constexpr int kHeader = 32, kPeriod = Period;
  static constexpr int kBlock = 64 * Bits;

  static Block<(1 << Bits) - 1, 1 << (Bits - 1)> unpack(const uint8_t* p, const uint8_t* header, int row) {
    Block<(1 << Bits) - 1, 1 << (Bits - 1)> out;
    out.d = load_bf16(reinterpret_cast<const uint16_t*>(header) + row);
    if constexpr (Bits == 8) {
      for (int g = 0; g < 8; ++g) out.codes[g] = load_bytes(p + 64 * g, row);
    } else if constexpr (Bits == 4) {
      unpack_4(out.codes, p, row);
    } else {
      unpack_3(out.codes, p, row);
    }
    return out;
  }
};

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
