// The kernels of elementwise_kernels.h, written once over simd.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "elementwise_kernels.h"
#include "functions.h"
#include "sampling_impl.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// Sums of long rows are kept in this many vectors, so that additions overlap and rounding errors stay small.
constexpr int kChains = kLanes == 1 ? 16 : 4;

// Calls body(i, get, put) for the vectors of [0, n); get(p) and put(p, v) touch only as many floats as are left.
template <class Body>
inline void sweep(long n, const Body& body) {
  long i = 0;
  for (; i + kLanes <= n; i += kLanes)
    body(i, [](const float* p) { return load(p); }, [](float* p, Vec v) { store(p, v); });
  if (const int part = static_cast<int>(n - i); part > 0)
    body(i, [part](const float* p) { return load(p, part); }, [part](float* p, Vec v) { store(p, v, part); });
}

// The sum over [0, n), where terms(i, part, s) adds to s those of elements i … i + part - 1.
template <class Terms>
inline float total_of(long n, const Terms& terms) {
  Vec sums[kChains];
  for (Vec& s : sums) s = zero();
  long i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes)
    for (int c = 0; c < kChains; ++c) sums[c] = terms(i + c * kLanes, kLanes, sums[c]);
  for (; i < n; i += kLanes) sums[0] = terms(i, static_cast<int>(n - i < kLanes ? n - i : kLanes), sums[0]);
  for (int step = kChains / 2; step > 0; step /= 2)
    for (int c = 0; c < step; ++c) sums[c] = add(sums[c], sums[c + step]);
  return sum(sums[0]);
}

inline Vec load_part(const float* p, int part) { return part == kLanes ? load(p) : load(p, part); }

void fill_nan(float* y, long n) {
  for (long i = 0; i < n; ++i) y[i] = __builtin_nanf("");
}

void embedding(const EmbeddingArgs& a, long first, long last) {
  for (long t = first; t < last; ++t) {
    float* y = a.y + t * a.width;
    const int64_t id = a.ids[t];
    const int64_t position = a.position_table == nullptr ? 0 : a.positions[t] + a.offset;
    if (id < 0 || id >= a.table_rows || (a.position_table && (position < 0 || position >= a.position_rows))) {
      fill_nan(y, a.width);
      continue;
    }
    const float* row = a.table + id * a.width;
    const Vec scale = set1(a.scale);
    if (a.position_table == nullptr) {
      sweep(a.width, [&](long i, auto get, auto put) { put(y + i, mul(get(row + i), scale)); });
    } else {
      const float* place = a.position_table + position * a.width;
      sweep(a.width, [&](long i, auto get, auto put) { put(y + i, add(mul(get(row + i), scale), get(place + i))); });
    }
  }
}

// y = (x - mean) * scale * weight + bias; weight and bias may be null.
inline void apply_norm(const float* x, long n, float mean, float scale, const float* weight, const float* bias, float* y) {
  const Vec m = set1(mean), s = set1(scale);
  sweep(n, [&](long i, auto get, auto put) {
    Vec v = mul(sub(get(x + i), m), s);
    if (weight != nullptr) v = mul(v, get(weight + i));
    put(y + i, bias == nullptr ? v : add(v, get(bias + i)));
  });
}

inline float square_sum(const float* x, long n) {
  return total_of(n, [=](long i, int part, Vec s) {
    const Vec v = load_part(x + i, part);
    return fma(v, v, s);
  });
}

inline float inverse_root(float mean_square, float eps) { return 1.0f / __builtin_sqrtf(mean_square + eps); }

void norm(const NormArgs& a, long first, long last) {
  const long n = a.width;
  for (long t = first; t < last; ++t) {
    const float* x = a.x + t * n;
    if (a.delta != nullptr) {
      const float* delta = a.delta + t * n;
      float* total = a.total + t * n;
      sweep(n, [=](long i, auto get, auto put) { put(total + i, add(get(x + i), get(delta + i))); });
      x = total;
    }
    float mean = 0.0f, scale;
    if (a.kind == NormKind::rms) {
      scale = inverse_root(square_sum(x, n) / n, a.eps);
    } else {
      mean = total_of(n, [=](long i, int part, Vec s) { return add(s, load_part(x + i, part)); }) / n;
      const Vec m = set1(mean);
      const float squares = total_of(n, [=](long i, int part, Vec s) {
        const Vec d = sub(load_part(x + i, part), m);
        return part == kLanes ? fma(d, d, s) : fma(d, keep(d, 0, part, zero()), s);
      });
      scale = inverse_root(squares / n, a.eps);
    }
    apply_norm(x, n, mean, scale, a.weight, a.bias, a.normed + t * n);
  }
}

void rotary(const RotaryArgs& a, long first, long last) {
  const int heads = a.heads + a.kv_heads, half_turn = a.rotated / 2;
  const long dim = a.head_dim;
  for (long unit = first; unit < last; ++unit) {
    const long t = unit / heads;
    const int head = static_cast<int>(unit % heads);
    const float* x = a.qkv + t * a.stride + head * dim;
    float* y = a.qk + unit * dim;
    const int64_t position = a.rotated ? a.positions[t] : 0;
    if (a.rotated && (position < 0 || position >= a.table_rows)) {
      fill_nan(y, dim);
      continue;
    }
    if (a.q_norm != nullptr) {
      apply_norm(x, dim, 0.0f, inverse_root(square_sum(x, dim) / dim, a.eps), head < a.heads ? a.q_norm : a.k_norm,
                 nullptr, y);
      x = y;
    }
    const float* cos = a.cos + position * a.rotated;
    const float* sin = a.sin + position * a.rotated;
    sweep(half_turn, [=](long i, auto get, auto put) {
      const long j = i + half_turn;
      const Vec low = get(x + i), high = get(x + j);
      put(y + i, fma(low, get(cos + i), mul(high, get(sin + i))));
      put(y + j, fma(high, get(cos + j), mul(low, get(sin + j))));
    });
    if (x != y && a.rotated < dim) std::memcpy(y + a.rotated, x + a.rotated, (dim - a.rotated) * sizeof(float));
  }
}

// Elements [first, last) of y, of rows of `width` that lie `stride` apart in x.
template <class Function>
inline void activate_with(Function f, bool gated, const float* x, long width, float* y, long first, long last) {
  while (first < last) {
    const long row = first / width, column = first % width;
    const long n = last - first < width - column ? last - first : width - column;
    float* out = y + first;
    if (gated) {
      const float* gate = x + row * 2 * width + column;
      const float* up = gate + width;
      sweep(n, [=](long i, auto get, auto put) { put(out + i, mul(f(get(gate + i)), get(up + i))); });
    } else {
      const float* in = x + first;
      sweep(n, [=](long i, auto get, auto put) { put(out + i, f(get(in + i))); });
    }
    first += n;
  }
}

void activate(Activation function, bool gated, const float* x, long width, float* y, long first, long last) {
  switch (function) {
    case Activation::silu:
      return activate_with([](Vec v) { return silu(v); }, gated, x, width, y, first, last);
    case Activation::gelu:
      return activate_with([](Vec v) { return gelu(v); }, gated, x, width, y, first, last);
    case Activation::gelu_tanh:
      return activate_with([](Vec v) { return gelu_tanh(v); }, gated, x, width, y, first, last);
    case Activation::relu:
      return activate_with([](Vec v) { return relu(v); }, gated, x, width, y, first, last);
  }
}

void add_elements(const float* a, const float* b, float* y, long first, long last) {
  sweep(last - first, [a = a + first, b = b + first, y = y + first](long i, auto get, auto put) {
    put(y + i, add(get(a + i), get(b + i)));
  });
}

void sigmoid_gate(const float* y, const float* gate, long width, float* z, long first, long last) {
  for (long t = first; t < last; ++t) {
    const Vec g = gate[t] == gate[t] ? sigmoid(set1(gate[t])) : set1(gate[t]);
    sweep(width, [g, y = y + t * width, z = z + t * width](long i, auto get, auto put) {
      put(z + i, mul(get(y + i), g));
    });
  }
}

void softcap(const float* x, float cap, float* y, long first, long last) {
  const Vec c = set1(cap);
  sweep(last - first, [c, x = x + first, y = y + first](long i, auto get, auto put) {
    put(y + i, mul(tanh(div(get(x + i), c)), c));
  });
}

}  // namespace

inline ElementwiseKernels elementwise_kernels() {
  return {embedding, norm, rotary, activate, add_elements, sigmoid_gate, softcap, argmax, above, count_above};
}

}  // namespace twofold::TWOFOLD_ISA
