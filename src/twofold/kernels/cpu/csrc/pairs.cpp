#include "pairs.h"

#include <cmath>
#include <cstring>

#include "kernels.h"
#include "packed_codes.h"

namespace twofold {

namespace {

Packed packed_format(Pairs type) {
  return type == Pairs::int4 ? Packed::ovp_int4 : type == Pairs::flint4 ? Packed::ovp_flint4 : Packed::ovp_int8;
}

}  // namespace

void pack_pairs(Pairs type, const uint8_t* codes, long rows, long cols, uint8_t* packed) {
  const Packed format = packed_format(type);
  const Places& at = places(format);
  std::memset(packed, 0, rows / kStripRows * strip_bytes(format, cols));
  for (long row = 0; row < rows; ++row, codes += cols * at.bits / 8) {
    uint8_t* strip = packed + row / kStripRows * strip_bytes(format, cols);
    for (long k = 0; k < cols; ++k) {
      const int code = at.bits == 8 ? codes[k] : (codes[k / 2] >> (4 * (k % 2))) & 15;
      put_code(at, strip + k / kBlockCols * layout(format).block_bytes, static_cast<int>(row % kStripRows),
               static_cast<int>(k % kBlockCols), code);
    }
  }
}

void encode_pairs(Pairs type, const float* x, const float* scales, long rows, long cols, uint8_t* codes) {
  const PairType& kind = kPairTypes[static_cast<int>(type)];
  for (long row = 0; row < rows; ++row, x += cols)
    for (long k = 0; k < cols; k += 2) {
      const float units[2] = {x[k] / scales[row], x[k + 1] / scales[row]};
      float values[2];
      round_pair(type, units, values);
      const bool first = std::fabs(values[0]) > kind.normal, second = std::fabs(values[1]) > kind.normal;
      const int a = pair_code(type, values[0], second), b = pair_code(type, values[1], first);
      if (type == Pairs::int8) {
        *codes++ = static_cast<uint8_t>(a);
        *codes++ = static_cast<uint8_t>(b);
      } else {
        *codes++ = static_cast<uint8_t>(a | b << 4);
      }
    }
}

void pair_errors(Pairs type, const float* x, const float* scales, long rows, long cols, float* errors) {
  for (long row = 0; row < rows; ++row, x += cols) {
    const float scale = scales[row], inverse = 1.0f / scale;
    double total = 0.0;
    for (long k = 0; k < cols; k += 2) {
      const float units[2] = {x[k] * inverse, x[k + 1] * inverse};
      float values[2];
      round_pair(type, units, values);
      const float a = values[0] * scale - x[k], b = values[1] * scale - x[k + 1];
      total += a * a + b * b;
    }
    errors[row] = static_cast<float>(total / static_cast<double>(cols));
  }
}

void unpack_pairs(Pairs type, const uint8_t* packed, const float* scales, long rows, long cols, float* out) {
  const Packed format = packed_format(type);
  const Places& at = places(format);
  for (long row = 0; row < rows; ++row, out += cols) {
    const uint8_t* strip = packed + row / kStripRows * strip_bytes(format, cols);
    const int r = static_cast<int>(row % kStripRows);
    for (long k = 0; k < cols; ++k) {
      const uint8_t* block = strip + k / kBlockCols * layout(format).block_bytes;
      const int i = static_cast<int>(k % kBlockCols);
      out[k] = pair_value(type, get_code(at, block, r, i), get_code(at, block, r, i ^ 1)) * scales[row];
    }
  }
}

Instruction round_pairs(Pairs type, float scale, const float* x, long tokens, long cols, float* y) {
  return {"round_pairs", {[=](int member, int members) {
            const Share part = share(tokens * cols, member, members, kBlockCols);
            if (part.first >= part.last) return;
            kernels().matmul.round_pairs(type, x + part.first, part.last - part.first, scale, y + part.first);
            for (long i = part.first; i < part.last; ++i) y[i] *= scale;
          }}};
}

}  // namespace twofold
