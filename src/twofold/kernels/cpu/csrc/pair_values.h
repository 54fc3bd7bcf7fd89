// Outlier-victim pairs: two codes side by side, of which at most one is an outlier, and then the other, its victim,
// holds the code that no normal value has. See OliVe, arXiv:2304.07493.
#pragma once

#include <cstdint>

#include "block_values.h"

namespace twofold {

enum class Pairs : int { int4, flint4, int8 };

// A type of pairs: the largest normal value; the least, the largest and the mantissa's bits of outliers.
struct PairType {
  float normal, least, most;
  int mantissa;
  float threshold() const { return (normal + least) / 2.0f; }
};
constexpr PairType kPairTypes[3] = {{7.0f, 12.0f, 96.0f, 1}, {16.0f, 24.0f, 192.0f, 1}, {127.0f, 144.0f, 32768.0f, 3}};

constexpr int kVictim4 = 8, kVictim8 = 128;

// Values by 4-bit code: normal ones, the victim's being 0, and outliers, of which 0 and 8 are no codes.
constexpr float kInt4[16] = {0, 1, 2, 3, 4, 5, 6, 7, 0, -7, -6, -5, -4, -3, -2, -1};
constexpr float kFlint4[16] = {0, 1, 2, 3, 4, 6, 8, 16, 0, -1, -2, -3, -4, -6, -8, -16};
constexpr float kOutliers[16] = {0, 1.5, 2, 3, 4, 6, 8, 12, 0, -1.5, -2, -3, -4, -6, -8, -12};  // times 8, or 16 of flint4

// Outliers of 8 bits: sign, four bits of exponent, three of mantissa: (8 + mantissa) << (exponent + 4).
inline float outlier8(uint8_t code) {
  const float size = static_cast<float>(8 + (code & 7)) * static_cast<float>(1 << (((code >> 3) & 15) + 4));
  return code & 128 ? -size : size;
}

// The value of `code` beside `other`.
inline float pair_value(Pairs type, int code, int other) {
  if (type == Pairs::int8) {
    if (code == kVictim8) return 0.0f;
    return other == kVictim8 ? outlier8(static_cast<uint8_t>(code)) : static_cast<float>(static_cast<int8_t>(code));
  }
  if (other == kVictim4) return kOutliers[code] * (type == Pairs::int4 ? 8.0f : 16.0f);
  return type == Pairs::int4 ? kInt4[code] : kFlint4[code];
}

// The code of a rounded value; beside_outlier: the number next to it is one.
inline int pair_code(Pairs type, float value, bool beside_outlier) {
  const PairType& kind = kPairTypes[static_cast<int>(type)];
  const int bits = type == Pairs::int8 ? 8 : 4;
  if (beside_outlier) return 1 << (bits - 1);
  const int negative = value < 0.0f ? 1 << (bits - 1) : 0;
  if (__builtin_fabsf(value) > kind.normal) {  // the float's own exponent and mantissa, from the least code's on
    const uint32_t drop = 23 - static_cast<uint32_t>(kind.mantissa);
    const uint32_t least = (bits_of(kind.least) >> drop) - 1;
    return negative | static_cast<int>(((bits_of(value) & 0x7fffffffu) >> drop) - least);
  }
  if (type != Pairs::flint4) return static_cast<int>(value) & ((1 << bits) - 1);
  int code = 0;
  while (kFlint4[code] < __builtin_fabsf(value)) ++code;
  return negative | code;
}

// The nearest normal value to `x`, halves to even (of flint4, away from zero).
inline float normal_value(Pairs type, float x) {
  const float most = kPairTypes[static_cast<int>(type)].normal;
  if (type != Pairs::flint4) {
    const float whole = __builtin_nearbyintf(x);
    return whole > most ? most : whole < -most ? -most : whole;
  }
  const float a = __builtin_fabsf(x);
  const float size = a >= 12.0f  ? 16.0f
                     : a >= 7.0f ? 8.0f
                     : a >= 5.0f ? 6.0f
                                 : static_cast<float>((a >= 0.5f) + (a >= 1.5f) + (a >= 2.5f) + (a >= 3.5f));
  return __builtin_copysignf(size, x);
}

// The nearest outlier to `x`, halves away from zero, in the range of the type.
inline float outlier_value(const PairType& type, float x) {
  const int drop = 23 - type.mantissa;
  const float size = float_of_bits((bits_of(__builtin_fabsf(x)) + (1u << (drop - 1))) & ~((1u << drop) - 1u));
  return __builtin_copysignf(size < type.least ? type.least : size > type.most ? type.most : size, x);
}

// Rounds x[0] and x[1], in units of their scale, to a pair. Of two outliers the larger stays (the first, if equal).
inline void round_pair(Pairs kind, const float* x, float* out) {
  const PairType& type = kPairTypes[static_cast<int>(kind)];
  const float a = __builtin_fabsf(x[0]), b = __builtin_fabsf(x[1]);
  if (a > type.threshold() || b > type.threshold()) {
    const bool first = a >= b;
    out[0] = first ? outlier_value(type, x[0]) : 0.0f;
    out[1] = first ? 0.0f : outlier_value(type, x[1]);
  } else {
    out[0] = normal_value(kind, x[0]);
    out[1] = normal_value(kind, x[1]);
  }
}

}  // namespace twofold
