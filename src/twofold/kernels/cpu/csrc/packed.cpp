#include "packed.h"

#include <cstring>

#include "half.h"
#include "packed_codes.h"

namespace twofold {

namespace {

void put_half(uint8_t* vector, int row, const uint8_t* source) { std::memcpy(vector + 2 * row, source, 2); }

float get_half(const uint8_t* vector, int row) {
  uint16_t bits;
  std::memcpy(&bits, vector + 2 * row, 2);
  return half_to_float(bits);
}

// The 6-bit scale and minimum of sub-block j (of 8) in the 12 bytes of a q4_k or q5_k header.
void k_scale(const uint8_t* s, int j, uint8_t* scale, uint8_t* minimum) {
  if (j < 4) {
    *scale = s[j] & 63;
    *minimum = s[j + 4] & 63;
  } else {
    *scale = static_cast<uint8_t>((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4));
    *minimum = static_cast<uint8_t>((s[j + 4] >> 4) | ((s[j] >> 6) << 4));
  }
}

// Packs one block of 32 columns of the formats without super-blocks.
void pack_plain(Packed format, const uint8_t* s, uint8_t* block, int row) {
  const Places& at = places(format);
  const bool minimum = format == Packed::q4_1 || format == Packed::q5_1;
  put_half(block, row, s);
  if (minimum) put_half(block + 32, row, s + 2);
  s += minimum ? 4 : 2;
  uint32_t fifth = 0;
  if (format == Packed::q5_0 || format == Packed::q5_1) {
    std::memcpy(&fifth, s, 4);
    s += 4;
  }
  for (int k = 0; k < kBlockCols; ++k) {
    int code;
    if (format == Packed::q8_0) {
      code = static_cast<int8_t>(s[k]) + 128;
    } else {
      code = k < 16 ? s[k] & 15 : s[k - 16] >> 4;
      code |= static_cast<int>((fifth >> k) & 1) << 4;
    }
    put_code(at, block, row, k, code);
  }
}

// Packs sub-block j of a super-block of 256.
void pack_super(Packed format, const uint8_t* s, int j, uint8_t* header, uint8_t* block, int row) {
  const Places& at = places(format);
  if (format == Packed::q6_k) {
    if (j == 0) put_half(header, row, s + 208);
    block[row] = s[192 + 2 * j];
    block[16 + row] = s[192 + 2 * j + 1];
    for (int k = 0; k < kBlockCols; ++k) {
      // Halves of 128: 64 bytes of low parts, in which positions 64 apart share a byte, and 32 bytes of high parts.
      const int half = j / 4, quarter = j % 4;
      const uint8_t low = s[64 * half + 32 * (quarter % 2) + k];
      const uint8_t high = s[128 + 32 * half + k];
      put_code(at, block, row, k, ((low >> (4 * (quarter / 2))) & 15) | (((high >> (2 * quarter)) & 3) << 4));
    }
    return;
  }
  if (j == 0) {
    put_half(header, row, s);
    put_half(header + 32, row, s + 2);
  }
  k_scale(s + 4, j, block + row, block + 16 + row);
  const uint8_t* low = s + (format == Packed::q5_k ? 48 : 16) + 32 * (j / 2);
  for (int k = 0; k < kBlockCols; ++k) {
    int code = (low[k] >> (4 * (j % 2))) & 15;
    if (format == Packed::q5_k) code |= ((s[16 + k] >> j) & 1) << 4;
    put_code(at, block, row, k, code);
  }
}

}  // namespace

void pack(Packed format, const uint8_t* source, long rows, long cols, uint8_t* packed) {
  const PackedLayout& l = layout(format);
  const long strips = (rows + kStripRows - 1) / kStripRows, source_row = cols / l.source_cols * l.source_bytes;
  std::memset(packed, 0, static_cast<size_t>(strips) * strip_bytes(format, cols));
  for (long strip = 0; strip < strips; ++strip) {
    uint8_t* p = packed + static_cast<size_t>(strip) * strip_bytes(format, cols);
    uint8_t* header = nullptr;
    for (long b = 0; b < cols / kBlockCols; ++b) {
      if (l.header_bytes != 0 && b % 8 == 0) {
        header = p;
        p += l.header_bytes;
      }
      for (int row = 0; row < kStripRows && strip * kStripRows + row < rows; ++row) {
        const uint8_t* s = source + (strip * kStripRows + row) * source_row;
        if (l.source_cols == kBlockCols) {
          pack_plain(format, s + b * l.source_bytes, p, row);
        } else {
          pack_super(format, s + b / 8 * l.source_bytes, static_cast<int>(b % 8), header, p, row);
        }
      }
      p += l.block_bytes;
    }
  }
}

void unpack_row(Packed format, const uint8_t* packed, long cols, long row, float* out) {
  const PackedLayout& l = layout(format);
  const uint8_t* p = packed + static_cast<size_t>(row / kStripRows) * strip_bytes(format, cols);
  const uint8_t* header = nullptr;
  const int r = static_cast<int>(row % kStripRows);
  for (long b = 0; b < cols / kBlockCols; ++b, out += kBlockCols) {
    if (l.header_bytes != 0 && b % 8 == 0) {
      header = p;
      p += l.header_bytes;
    }
    for (int k = 0; k < kBlockCols; ++k) {
      const int code = get_code(places(format), p, r, k);
      switch (format) {
        case Packed::q4_0: out[k] = static_cast<float>(code - 8) * get_half(p, r); break;
        case Packed::q5_0: out[k] = static_cast<float>(code - 16) * get_half(p, r); break;
        case Packed::q8_0: out[k] = static_cast<float>(code - 128) * get_half(p, r); break;
        case Packed::q4_1:
        case Packed::q5_1: out[k] = static_cast<float>(code) * get_half(p, r) + get_half(p + 32, r); break;
        case Packed::q4_k:
        case Packed::q5_k: {
          const float d = static_cast<float>(p[r]) * get_half(header, r);
          const float m = static_cast<float>(p[16 + r]) * get_half(header + 32, r);
          out[k] = static_cast<float>(code) * d - m;
          break;
        }
        case Packed::q6_k: {
          const float d = static_cast<float>(static_cast<int8_t>(p[16 * (k / 16) + r])) * get_half(header, r);
          out[k] = static_cast<float>(code - 32) * d;
          break;
        }
        default: break;  // block formats: packed_blocks.h
      }
    }
    p += l.block_bytes;
  }
}

}  // namespace twofold
