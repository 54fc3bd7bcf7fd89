#include "rounding.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "block_values.h"

namespace twofold {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargestE4M3 = 448.0f, kSmallestE4M3 = 1.0f / 512.0f;

// |x| at most `largest`, to the nearest value of a float type (ties to even).
float round_float(float x, int mantissa, float smallest_normal) {
  const float binade = float_of_bits(bits_of(x) & 0x7f800000u);  // exact, unlike a logarithm
  const float step = std::max(binade, smallest_normal) * std::ldexp(1.0f, -mantissa);
  return std::nearbyint(x / step) * step;
}

// Bits of the largest magnitude: ordered as magnitudes are, with infinity and NaN on top.
uint32_t amax_bits(const float* x, long n) {
  uint32_t out = 0;
  for (long i = 0; i < n; ++i) out = std::max(out, bits_of(x[i]) & 0x7fffffffu);
  return out;
}

void round_block(const BlockRounding& r, const float* x, long n, float factor, float* y) {
  const float divisor = factor == 0.0f ? kInfinity : factor;
  for (long i = 0; i < n; ++i) {
    const float v = std::clamp(x[i] / divisor, -r.largest, r.largest);
    y[i] = (r.mantissa < 0 ? std::nearbyint(v) : round_float(v, r.mantissa, r.smallest_normal)) * factor;
  }
}

// The factor of a block of largest magnitude `amax` (above zero), in a row with the second-level scale `row`.
float two_level_factor(const BlockRounding& r, float amax, float row) {
  const float wanted = amax / r.largest / (row > 0.0f ? row : 1.0f);
  return std::max(round_float(std::min(wanted, kLargestE4M3), 3, 1.0f / 64.0f), kSmallestE4M3) * row;
}

void round_row(const BlockRounding& r, const float* x, long cols, float* y) {
  float row = 0.0f;
  if (r.two_levels) {
    const uint32_t top = amax_bits(x, cols);
    if (top >= 0x7f800000u) {
      std::fill(y, y + cols, kNaN);
      return;
    }
    row = float_of_bits(top) / (r.largest * kLargestE4M3);
  }
  for (long k = 0; k < cols; k += r.block) {
    const long n = std::min<long>(r.block, cols - k);
    const uint32_t amax = amax_bits(x + k, n);
    if (amax >= 0x7f800000u) {
      std::fill(y + k, y + k + n, kNaN);
    } else if (amax == 0) {
      std::fill(y + k, y + k + n, 0.0f);
    } else {
      const float factor = r.two_levels ? two_level_factor(r, float_of_bits(amax), row)
                                        : e8m0_value(e8m0_code(amax, r.largest));
      round_block(r, x + k, n, factor, y + k);
    }
  }
}

// In place: log2(size) stages of sums and differences of pairs.
void hadamard(float* y, long size) {
  for (long step = 1; step < size; step *= 2)
    for (long at = 0; at < size; at += 2 * step)
      for (long i = at; i < at + step; ++i) {
        const float a = y[i], b = y[i + step];
        y[i] = a + b;
        y[i + step] = a - b;
      }
}

}  // namespace

Instruction round_blocks(const BlockRounding& rounding, const float* x, long tokens, long cols, float* y) {
  return {"round", {[=](int member, int members) {
            const Share part = share(tokens, member, members);
            for (long t = part.first; t < part.last; ++t) round_row(rounding, x + t * cols, cols, y + t * cols);
          }}};
}

Instruction rotate_blocks(const float* x, long tokens, long cols, const float* signs, long size, float* y) {
  return {"rotate", {[=](int member, int members) {
            const Share part = share(tokens * (cols / size), member, members);
            for (long b = part.first; b < part.last; ++b) {
              for (long i = 0; i < size; ++i) y[b * size + i] = x[b * size + i] * signs[i];
              hadamard(y + b * size, size);
            }
          }}};
}

}  // namespace twofold
