// Activation functions on vectors. Relative errors are some 1e-7; a NaN stays one, but in `sigmoid`.
#pragma once

#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

inline Vec sigmoid(Vec x) { return reciprocal(add(set1(1.0f), exp(sub(zero(), x)))); }

inline Vec silu(Vec x) { return mul(x, sigmoid(x)); }

inline Vec relu(Vec x) { return max(zero(), x); }  // in this order a NaN is the result

// 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x times the sigmoid of 2u.
inline Vec gelu_tanh(Vec x) {
  const Vec twice = mul(x, fma(mul(x, x), set1(0.0713548163f), set1(1.59576912f)));
  return mul(x, sigmoid(twice));
}

// x times the normal distribution's Phi(x). Its tail Phi(-a), times exp(a^2 / 2), is a smooth function of
// t = 1 / (1 + 0.35 a): a polynomial without constant term, fitted to it on a in [0, 14] for the least relative error
// (3e-8 before rounding).
inline Vec gelu(Vec x) {
  const Vec a = min(abs(x), set1(14.0f));
  const Vec t = reciprocal(fma(a, set1(0.35f), set1(1.0f)));
  Vec p = set1(-0.0291459281f);
  p = fma(p, t, set1(0.143971682f));
  p = fma(p, t, set1(-0.255714238f));
  p = fma(p, t, set1(0.159174129f));
  p = fma(p, t, set1(-0.0231098142f));
  p = fma(p, t, set1(0.105507992f));
  p = fma(p, t, set1(0.119832873f));
  p = fma(p, t, set1(0.139861867f));
  p = fma(p, t, set1(0.139621407f));
  // The square's rounding error would be multiplied by the exponential: it is taken off to first order.
  const Vec square = mul(a, a);
  const Vec lost = fma(a, a, sub(zero(), square));
  const Vec tail = mul(mul(p, t), mul(exp(mul(square, set1(-0.5f))), fma(lost, set1(-0.5f), set1(1.0f))));
  return mul(x, select_less(x, zero(), tail, sub(set1(1.0f), tail)));
}

// Near zero a polynomial (that of Cephes' tanhf, S. Moshier), because 1 - 2 / (exp(2x) + 1) loses its digits there.
inline Vec tanh(Vec x) {
  const Vec a = abs(x), square = mul(x, x);
  Vec p = set1(-5.70498872745e-3f);
  p = fma(p, square, set1(2.06390887954e-2f));
  p = fma(p, square, set1(-5.37397155531e-2f));
  p = fma(p, square, set1(1.33314422036e-1f));
  p = fma(p, square, set1(-3.33332819422e-1f));
  const Vec near = fma(mul(p, square), x, x);
  const Vec far = mul(sub(set1(1.0f), mul(set1(2.0f), reciprocal(add(exp(add(a, a)), set1(1.0f))))),
                      select_less(x, zero(), set1(-1.0f), set1(1.0f)));
  return select_less(a, set1(0.625f), near, select_less(zero(), a, far, x));  // x: only a NaN comes this far
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
