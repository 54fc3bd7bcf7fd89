// Exponentials as a mantissa times a power of two, which cannot overflow (arXiv:2001.04438): sums of them need no
// maximum first.
#pragma once

#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr float kLeastExponent = -1.0e9f;  // of nothing; far below that of any float, and exact arithmetic still

// 2^n for n <= 0; what is below a float's range is zero.
inline Vec shrink(Vec n) {
  const Vec least = set1(-126.0f);
  return select_less(n, least, zero(), power_of_two(max(n, least)));
}

// A sum of exp(x) in every lane: mantissa times two to the exponent.
struct PairSum {
  Vec mantissa = zero(), exponent = set1(kLeastExponent);

  void add(Vec m, Vec n) {
    const Vec top = max(exponent, n);
    mantissa = fma(mantissa, shrink(sub(exponent, top)), mul(m, shrink(sub(n, top))));
    exponent = top;
  }
  void add(Vec x) {
    Vec n;
    const Vec m = exp_parts(x, n);
    add(m, n);
  }
  // Only the lanes lo … hi - 1.
  void add(Vec x, int lo, int hi) {
    Vec n;
    const Vec m = exp_parts(x, n);
    add(keep(m, lo, hi, zero()), keep(n, lo, hi, set1(kLeastExponent)));
  }

  // The sum over the lanes.
  void total(float& sums, float& power) const {
    power = max_of(exponent);
    sums = sum(mul(mantissa, shrink(sub(exponent, set1(power)))));
  }
};

// exp(x) over two to the `origin`.
inline Vec pair_weight(Vec x, Vec origin) {
  Vec n;
  const Vec m = exp_parts(x, n);
  return mul(m, shrink(sub(n, origin)));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
