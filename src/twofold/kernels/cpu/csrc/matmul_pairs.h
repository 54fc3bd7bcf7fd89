// Outlier-victim pairs: how a block of them is unpacked, and how activations are rounded to them. The scale of a row is
// left to the caller.
#pragma once

#include "matmul_dot.h"
#include "pair_values.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// Bytes of all 16 codes, of normal values and of outliers.
struct PairTable {
  uint8_t normal[16], outlier[16];
};
constexpr PairTable shifted_int4() {  // values plus 128
  PairTable out{};
  for (int code = 0; code < 16; ++code) {
    out.normal[code] = static_cast<uint8_t>(static_cast<int>(kInt4[code]) + 128);
    out.outlier[code] = static_cast<uint8_t>(static_cast<int>(kOutliers[code] * 8.0f) + 128);
  }
  return out;
}
constexpr PairTable kShiftedInt4 = shifted_int4();
// The upper byte of the binary16 of each value, whose lower byte is zero.
constexpr PairTable kHalfFlint4{
    {0x00, 0x3c, 0x40, 0x42, 0x44, 0x46, 0x48, 0x4c, 0x00, 0xbc, 0xc0, 0xc2, 0xc4, 0xc6, 0xc8, 0xcc},
    {0x00, 0x4e, 0x50, 0x52, 0x54, 0x56, 0x58, 0x5a, 0x00, 0xce, 0xd0, 0xd2, 0xd4, 0xd6, 0xd8, 0xda}};

// The codes of 8 bits in a block, normal values and outliers apart; zero is neither.
struct SplitPairs {
  Bytes normal, outlier;
};

#if defined(TWOFOLD_ISA_AVX512)

inline __mmask64 beside(__mmask64 lanes) {  // a code's partner is the byte beside it
  constexpr __mmask64 kEven = 0x5555555555555555ull;
  return ((lanes & kEven) << 1) | ((lanes >> 1) & kEven);
}
inline Bytes table_of(const uint8_t* entries) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}
inline Bytes look_up_pairs(Bytes codes, const PairTable& table) {
  const __mmask64 outliers = beside(_mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(kVictim4)));
  return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(table_of(table.normal), codes), outliers, table_of(table.outlier),
                                  codes);
}
// An exponent of an outlier is one more than stored, so that none is zero.
inline SplitPairs split_pairs(Bytes codes) {
  const __mmask64 victims = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(static_cast<char>(kVictim8)));
  const __mmask64 outliers = beside(victims);
  return {_mm512_maskz_mov_epi8(~(victims | outliers), codes),
          _mm512_maskz_add_epi8(outliers, codes, _mm512_set1_epi8(8))};
}
inline Vec signed_value_of(Bytes group, int j) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(group, 24 - 8 * j), 24));
}
// A byte's sign in bit 31, and what follows it from bit 30 - Gap on, as a float32's bits.
template <int Gap>
inline Vec float_bits_of(Bytes group, int j, uint32_t mask) {
  const __m512i top = _mm512_srai_epi32(_mm512_slli_epi32(group, 24 - 8 * j), Gap);
  return _mm512_castsi512_ps(_mm512_and_si512(top, _mm512_set1_epi32(static_cast<int>(mask))));
}

#elif defined(TWOFOLD_ISA_AVX2)

inline Bytes beside(Bytes lanes) {
  return _mm256_or_si256(_mm256_slli_epi16(lanes, 8), _mm256_srli_epi16(lanes, 8));
}
inline Bytes table_of(const uint8_t* entries) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}
inline Bytes look_up_pairs(Bytes codes, const PairTable& table) {
  const Bytes outliers = beside(_mm256_cmpeq_epi8(codes, _mm256_set1_epi8(kVictim4)));
  return _mm256_blendv_epi8(_mm256_shuffle_epi8(table_of(table.normal), codes),
                            _mm256_shuffle_epi8(table_of(table.outlier), codes), outliers);
}
inline SplitPairs split_pairs(Bytes codes) {
  const Bytes victims = _mm256_cmpeq_epi8(codes, _mm256_set1_epi8(static_cast<char>(kVictim8)));
  const Bytes outliers = beside(victims);
  return {_mm256_andnot_si256(_mm256_or_si256(victims, outliers), codes),
          _mm256_and_si256(outliers, _mm256_add_epi8(codes, _mm256_set1_epi8(8)))};
}
inline Vec signed_value_of(Bytes group, int j) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(group, 24 - 8 * j), 24));
}
template <int Gap>
inline Vec float_bits_of(Bytes group, int j, uint32_t mask) {
  const __m256i top = _mm256_srai_epi32(_mm256_slli_epi32(group, 24 - 8 * j), Gap);
  return _mm256_castsi256_ps(_mm256_and_si256(top, _mm256_set1_epi32(static_cast<int>(mask))));
}

#else

inline Bytes look_up_pairs(Bytes codes, const PairTable& table) {
  Bytes out;
  for (int i = 0; i < 4; ++i)
    out.b[i] = codes.b[i ^ 1] == kVictim4 ? table.outlier[codes.b[i]] : table.normal[codes.b[i]];
  return out;
}
inline SplitPairs split_pairs(Bytes codes) {
  SplitPairs out;
  for (int i = 0; i < 4; ++i) {
    const bool outlier = codes.b[i ^ 1] == kVictim8, victim = codes.b[i] == kVictim8;
    out.normal.b[i] = outlier || victim ? 0 : codes.b[i];
    out.outlier.b[i] = outlier ? static_cast<uint8_t>(codes.b[i] + 8) : 0;
  }
  return out;
}
inline Vec signed_value_of(Bytes group, int j) { return static_cast<int8_t>(group.b[j]); }
template <int Gap>
inline Vec float_bits_of(Bytes group, int j, uint32_t mask) {
  const auto top = static_cast<uint32_t>(static_cast<int32_t>(static_cast<uint32_t>(group.b[j]) << 24) >> Gap);
  return float_of_bits(top & mask);
}

#endif

// int4 beside outliers up to 96: codes plus 128, for products with int8 as with float32.
struct OvpInt4 {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kBlock = 256;

  struct Unpacked : Block<255, 128> {
    Vec value(int group, int j) const { return sub(value_of(codes[group], j), set1(128.0f)); }
    Vec combine(Vec low, Vec high, const BlockMeta&, Vec total) const { return add(add(low, high), total); }
  };
  static Unpacked unpack(const uint8_t* p, const uint8_t*, int row) {
    Unpacked out;
    out.d = set1(1.0f);
    unpack_4(out.codes, p, row);
    for (Bytes& codes : out.codes) codes = look_up_pairs(codes, kShiftedInt4);
    return out;
  }
};

// flint4 beside outliers up to 192, which int8 does not hold: for products with float32.
struct OvpFlint4 {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kBlock = 256;

  struct Unpacked {
    Bytes codes[8];
    Vec value(int group, int j) const {  // a binary16's exponent has a bias that is smaller by 112
      return mul(float_bits_of<3>(codes[group], j, 0x8fe00000u), set1(0x1p112f));
    }
    Vec combine(Vec low, Vec high, const BlockMeta&, Vec total) const { return add(add(low, high), total); }
  };
  static Unpacked unpack(const uint8_t* p, const uint8_t*, int row) {
    Unpacked out;
    unpack_4(out.codes, p, row);
    for (Bytes& codes : out.codes) codes = look_up_pairs(codes, kHalfFlint4);
    return out;
  }
};

// int8 beside outliers up to 32,768: for products with float32.
struct OvpInt8 {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kBlock = 512;

  struct Unpacked {
    SplitPairs codes[8];
    Vec value(int group, int j) const {
      // (8 + mantissa) 2^(exponent + 4) is (1 + mantissa / 8) 2^(exponent + 1 - 127), times 2^133.
      const Vec outlier = float_bits_of<4>(codes[group].outlier, j, 0x87f00000u);
      return fma(mul(outlier, set1(0x1p67f)), set1(0x1p66f), signed_value_of(codes[group].normal, j));
    }
    Vec combine(Vec low, Vec high, const BlockMeta&, Vec total) const { return add(add(low, high), total); }
  };
  static Unpacked unpack(const uint8_t* p, const uint8_t*, int row) {
    Unpacked out;
    for (int g = 0; g < 8; ++g) out.codes[g] = split_pairs(load_bytes(p + 64 * g, row));
    return out;
  }
};

// `count` activations (a multiple of 32) in units of `scale` to the values of pairs.
inline void round_pairs(Pairs kind, const float* x, long count, float scale, float* y) {
  const PairType& type = kPairTypes[static_cast<int>(kind)];
  const float inverse = 1.0f / scale;
  for (long i = 0; i < count; i += kLanes < 2 ? 2 : kLanes) {
    if constexpr (kLanes > 1) {
      const Vec units = mul(load(x + i), set1(inverse));
      if (kind != Pairs::flint4 && max_of(abs(units)) <= type.threshold()) {
        store(y + i, min(max(round(units), set1(-type.normal)), set1(type.normal)));
        continue;
      }
    }
    for (long k = i; k < i + (kLanes < 2 ? 2 : kLanes); k += 2) {
      const float pair[2] = {x[k] * inverse, x[k + 1] * inverse};
      round_pair(kind, pair, y + k);
    }
  }
}

// A column to pairs of int4 with one scale, as int8.
inline void quantise_pairs(const float* x, long cols, float scale, int8_t* codes, BlockMeta* meta) {
  for (long b = 0; b < cols / kBlockCols; ++b, x += kBlockCols, codes += kBlockCols) {
    float units[kBlockCols];
    round_pairs(Pairs::int4, x, kBlockCols, scale, units);
    const HalfSums sums = round_codes(units, 1.0f, codes);
    const auto total = static_cast<float>(sums.low + sums.high);
    meta[b] = {scale, scale * total, total, static_cast<float>(sums.low), static_cast<float>(sums.high)};
  }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
