#include "packed_blocks.h"

#include <algorithm>
#include <cstring>

#include "block_values.h"
#include "packed_codes.h"

namespace twofold {

namespace {

enum class Scale { e8m0, e4m3, bf16 };

// Of a format: its scale's type, and columns that share one.
struct Sharing {
  Scale scale;
  int cols;
};

Sharing sharing(Packed format) {
  switch (format) {
    case Packed::nvint4:
    case Packed::nvfp4: return {Scale::e4m3, 16};
    case Packed::int4_g32:
    case Packed::int4_g64:
    case Packed::int4_g128:
    case Packed::int3_g32:
    case Packed::int3_g64:
    case Packed::int3_g128:
    case Packed::int8_g32:
    case Packed::int8_g64:
    case Packed::int8_g128: return {Scale::bf16, layout(format).period * kBlockCols};
    default: return {Scale::e8m0, kBlockCols};
  }
}

bool is_float(Packed format) { return format == Packed::mxfp4 || format == Packed::nvfp4; }

int stored_code(const uint8_t* row, int bits, long k) {
  if (bits == 8) return row[k];
  if (bits == 4) return (row[k / 2] >> (4 * (k % 2))) & 15;
  if (bits == 3) {  // eight codes of 3 bits in three bytes
    const uint8_t* eight = row + k / 8 * 3;
    return ((eight[0] | eight[1] << 8 | eight[2] << 16) >> (3 * (k % 8))) & 7;
  }
  const uint8_t* three = row + k / 4 * 3;  // four codes of 6 bits
  const int all = three[0] | three[1] << 8 | three[2] << 16;
  return (all >> (6 * (k % 4))) & 63;
}

// Values of all codes of a format.
struct Values {
  float of[256];

  explicit Values(Packed format) {
    const int bits = places(format).bits;
    for (int code = 0; code < 1 << bits; ++code)
      of[code] = is_float(format) ? kE2M1[code] : static_cast<float>(code - (1 << (bits - 1)));
  }
};

// Scale of the half (0 or 1: 16 columns) of a block's row.
float scale_of(Scale kind, const uint8_t* block, const uint8_t* header, int row, int half) {
  if (kind == Scale::e8m0) return e8m0_value(block[row]);
  if (kind == Scale::e4m3) return e4m3_value(block[16 * half + row]);
  uint16_t bits;
  std::memcpy(&bits, header + 2 * row, 2);
  return bf16_value(bits);
}

// Calls body(block, header, number) for the blocks of a strip, up to and without number `end`.
template <class Byte, class Body>
void each_block(Packed format, Byte* strip, long end, const Body& body) {
  const PackedLayout& l = layout(format);
  Byte* header = strip;
  for (long b = 0; b < end; ++b) {
    if (b % l.period == 0) {
      header = strip;
      strip += l.header_bytes;
    }
    body(strip, header, b);
    strip += l.block_bytes;
  }
}

}  // namespace

void pack_blocks(Packed format, const uint8_t* codes, const uint8_t* scales, long rows, long cols, uint8_t* packed) {
  const PackedLayout& l = layout(format);
  const Places& at = places(format);
  const Sharing shared = sharing(format);
  const long cell = static_cast<long>(l.period) * kBlockCols;
  const long padded = (cols + cell - 1) / cell * cell, per_row = padded / shared.cols;
  const long scale_bytes = shared.scale == Scale::bf16 ? 2 : 1;
  const int flip = is_float(format) ? 0 : 1 << (at.bits - 1);  // two's complement to the value plus half the range
  const size_t bytes = strip_bytes(format, cols);
  std::memset(packed, 0, static_cast<size_t>((rows + kStripRows - 1) / kStripRows) * bytes);
  for (long row = 0; row < rows; ++row) {
    const int r = static_cast<int>(row % kStripRows);
    const uint8_t* source = codes + row * (padded / 8 * at.bits);
    const uint8_t* scale = scales + row * per_row * scale_bytes;
    each_block(format, packed + static_cast<size_t>(row / kStripRows) * bytes, padded / kBlockCols,
               [&](uint8_t* block, uint8_t* header, long b) {
                 if (shared.scale == Scale::e8m0) block[r] = scale[b];
                 if (shared.scale == Scale::e4m3)
                   for (int half = 0; half < 2; ++half) block[16 * half + r] = scale[2 * b + half];
                 if (shared.scale == Scale::bf16) std::memcpy(header + 2 * r, scale + b / l.period * 2, 2);
                 for (int k = 0; k < kBlockCols; ++k)
                   put_code(at, block, r, k, stored_code(source, at.bits, b * kBlockCols + k) ^ flip);
               });
  }
}

void unpack_blocks(Packed format, const uint8_t* packed, float scale, long rows, long cols, float* out) {
  const Places& at = places(format);
  const Sharing shared = sharing(format);
  const Values values(format);
  for (long first = 0; first < rows; first += kStripRows, packed += strip_bytes(format, cols)) {
    const int valid = static_cast<int>(std::min<long>(kStripRows, rows - first));
    each_block(format, packed, cols / kBlockCols, [&](const uint8_t* block, const uint8_t* header, long b) {
      for (int r = 0; r < valid; ++r) {
        float* y = out + (first + r) * cols + b * kBlockCols;
        for (int half = 0; half < 2; ++half) {
          const float factor = scale_of(shared.scale, block, header, r, half) * scale;
          for (int k = 16 * half; k < 16 * half + 16; ++k) y[k] = values.of[get_code(at, block, r, k)] * factor;
        }
      }
    });
  }
}

}  // namespace twofold
