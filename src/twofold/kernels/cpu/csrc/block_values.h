// What the codes and scales of block formats stand for, one at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "half.h"

namespace twofold {

// E2M1 by code, times 2 and plus 12: whole numbers from 0 to 24.
constexpr uint8_t kTwiceE2M1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
constexpr float kE2M1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

inline float float_of_bits(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline uint32_t bits_of(float x) {
  uint32_t out;
  std::memcpy(&out, &x, 4);
  return out;
}

// 2^(code - 127); 2^-127 is subnormal.
inline float e8m0_value(uint8_t code) {
  return float_of_bits(code == 0 ? 0x00400000u : static_cast<uint32_t>(code) << 23);
}
// A number without sign: a binary16 whose exponent's bias is larger by 8, subnormals included.
inline float e4m3_value(uint8_t code) { return half_to_float(static_cast<uint16_t>(code << 7)) * 256.0f; }
inline float bf16_value(uint16_t code) { return float_of_bits(static_cast<uint32_t>(code) << 16); }

// The code of the least power of two that is not below amax / largest, within E8M0. Bits of amax: finite, not negative.
inline uint8_t e8m0_code(uint32_t amax, float largest) {
  if (amax == 0) return 0;
  const uint32_t top = bits_of(largest), fraction = 0x007fffffu;
  const int exponent = static_cast<int>(amax >> 23) - static_cast<int>(top >> 23) + ((amax & fraction) > (top & fraction));
  return static_cast<uint8_t>(exponent < -127 ? 0 : exponent > 127 ? 254 : exponent + 127);
}

}  // namespace twofold
