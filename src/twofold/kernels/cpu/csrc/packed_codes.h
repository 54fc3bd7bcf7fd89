// Where a code lies within a block of a strip: see matmul_kernels.h for the layout.
#pragma once

#include <cstdint>

#include "matmul_kernels.h"

namespace twofold {

// Position of the codes and of the fifth bits, bits 5 and 6, or third bits, in a block of a format.
struct Places {
  int codes, high, bits;
};
constexpr Places kPlaces[kPackedFormats] = {
    {32, 0, 4}, {64, 0, 4}, {96, 32, 5}, {128, 64, 5}, {32, 0, 8}, {32, 0, 4}, {96, 32, 5}, {160, 32, 6},
    {16, 0, 8}, {144, 16, 6}, {16, 0, 4}, {16, 0, 4}, {32, 0, 4}, {32, 0, 4}, {0, 0, 4}, {0, 0, 4}, {0, 0, 4},
    {0, 128, 3}, {0, 128, 3}, {0, 128, 3}, {0, 0, 8}, {0, 0, 8}, {0, 0, 8},
    {0, 0, 4}, {0, 0, 4}, {0, 0, 8},
};
constexpr const Places& places(Packed format) { return kPlaces[static_cast<int>(format)]; }

// Byte of (row, column k of 32) within a vector.
inline int byte_of(int row, int k) { return row * 4 + k % 4; }

// Sets the code of (row, k) in a block of zeros.
inline void put_code(const Places& at, uint8_t* block, int row, int k, int code) {
  const int group = k / 4, byte = byte_of(row, k);
  if (at.bits == 8) {
    block[at.codes + 64 * group + byte] = static_cast<uint8_t>(code);
    return;
  }
  if (at.bits == 3) {
    block[at.codes + 64 * (group / 4) + byte] |= static_cast<uint8_t>((code & 3) << (2 * (group % 4)));
    block[at.high + byte] |= static_cast<uint8_t>((code >> 2) << group);
    return;
  }
  block[at.codes + 64 * (group / 2) + byte] |= static_cast<uint8_t>((code & 15) << (4 * (group % 2)));
  if (at.bits == 5) block[at.high + byte] |= static_cast<uint8_t>((code >> 4) << group);
  if (at.bits == 6) block[at.high + 64 * (group / 4) + byte] |= static_cast<uint8_t>((code >> 4) << (2 * (group % 4)));
}

inline int get_code(const Places& at, const uint8_t* block, int row, int k) {
  const int group = k / 4, byte = byte_of(row, k);
  if (at.bits == 8) return block[at.codes + 64 * group + byte];
  if (at.bits == 3)
    return ((block[at.codes + 64 * (group / 4) + byte] >> (2 * (group % 4))) & 3) | ((block[at.high + byte] >> group) & 1) << 2;
  int code = (block[at.codes + 64 * (group / 2) + byte] >> (4 * (group % 2))) & 15;
  if (at.bits == 5) code |= ((block[at.high + byte] >> group) & 1) << 4;
  if (at.bits == 6) code |= ((block[at.high + 64 * (group / 4) + byte] >> (2 * (group % 4))) & 3) << 4;
  return code;
}

}  // namespace twofold
