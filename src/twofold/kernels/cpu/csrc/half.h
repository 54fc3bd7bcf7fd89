// IEEE binary16 without the processor's help.
#pragma once

#include <cstdint>
#include <cstring>

namespace twofold {

inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1fu, fraction = h & 0x3ffu, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (fraction << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (fraction << 13);
  } else if (fraction == 0) {
    bits = sign;
  } else {  // subnormal: shift the leading one into place
    exponent = 113;
    while (!(fraction & 0x400u)) {
      fraction <<= 1;
      --exponent;
    }
    bits = sign | (exponent << 23) | ((fraction & 0x3ffu) << 13);
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline uint16_t float_to_half(float f) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;
  if (bits >= 0x477ff000u) return sign | 0x7c00u;
  if (bits < 0x33000001u) return sign;
  const int exponent = static_cast<int>(bits >> 23);
  uint32_t fraction = (bits & 0x7fffffu) | 0x800000u;
  const int shift = exponent < 113 ? 13 + (113 - exponent) : 13;
  const uint32_t base = exponent < 113 ? 0u : static_cast<uint32_t>(exponent - 112) << 10;
  if (exponent >= 113) fraction &= 0x7fffffu;
  const uint32_t kept = fraction >> shift, rest = fraction & ((1u << shift) - 1), middle = 1u << (shift - 1);
  return static_cast<uint16_t>(sign | (base + kept + (rest > middle || (rest == middle && (kept & 1u)))));
}

}  // namespace twofold
