// The kernels of the STREAM benchmark, written once over simd.h. Include only from kernels_<isa>.cpp.
#pragma once

#include "bandwidth_kernels.h"
#include "elementwise_impl.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {

namespace {

// --- plain loops ---

void plain_copy(float* __restrict a, float* __restrict, float* __restrict c, float, long count) {
  for (long i = 0; i < count; ++i) c[i] = a[i];
}
void plain_scale(float* __restrict, float* __restrict b, float* __restrict c, float q, long count) {
  for (long i = 0; i < count; ++i) b[i] = q * c[i];
}
void plain_add(float* __restrict a, float* __restrict b, float* __restrict c, float, long count) {
  for (long i = 0; i < count; ++i) c[i] = a[i] + b[i];
}
void plain_triad(float* __restrict a, float* __restrict b, float* __restrict c, float q, long count) {
  for (long i = 0; i < count; ++i) a[i] = b[i] + q * c[i];
}

// --- the engine's abstraction: one expression for whole vectors and for what is left over ---

void abstract_copy(float* a, float*, float* c, float, long count) {
  sweep(count, [=](long i, auto get, auto put) { put(c + i, get(a + i)); });
}
void abstract_scale(float*, float* b, float* c, float q, long count) {
  sweep(count, [=, factor = set1(q)](long i, auto get, auto put) { put(b + i, mul(factor, get(c + i))); });
}
void abstract_add(float* a, float* b, float* c, float, long count) {
  sweep(count, [=](long i, auto get, auto put) { put(c + i, add(get(a + i), get(b + i))); });
}
void abstract_triad(float* a, float* b, float* c, float q, long count) {
  sweep(count, [=, factor = set1(q)](long i, auto get, auto put) {
    put(a + i, add(get(b + i), mul(factor, get(c + i))));
  });
}

// --- the same past the caches ---

#if defined(TWOFOLD_ISA_AVX512) || defined(TWOFOLD_ISA_AVX2)

inline void stream_store(float* p, Vec v) {
#if defined(TWOFOLD_ISA_AVX512)
  _mm512_stream_ps(p, v);
#else
  _mm256_stream_ps(p, v);
#endif
}

// `body` as for `sweep`, on elements [0, count).
template <typename Body>
void sweep_past_caches(long count, const Body& body) {
  const auto get = [](const float* p) { return load(p); };
  const auto put = [](float* p, Vec v) { stream_store(p, v); };
  const long whole = count / kLanes * kLanes;
  for (long i = 0; i < whole; i += kLanes) body(i, get, put);
  if (whole < count) {
    const int rest = static_cast<int>(count - whole);
    body(whole, [rest](const float* p) { return load(p, rest); }, [rest](float* p, Vec v) { store(p, v, rest); });
  }
  _mm_sfence();
}

void streamed_copy(float* a, float*, float* c, float, long count) {
  sweep_past_caches(count, [=](long i, auto get, auto put) { put(c + i, get(a + i)); });
}
void streamed_scale(float*, float* b, float* c, float q, long count) {
  sweep_past_caches(count, [=, factor = set1(q)](long i, auto get, auto put) { put(b + i, mul(factor, get(c + i))); });
}
void streamed_add(float* a, float* b, float* c, float, long count) {
  sweep_past_caches(count, [=](long i, auto get, auto put) { put(c + i, add(get(a + i), get(b + i))); });
}
void streamed_triad(float* a, float* b, float* c, float q, long count) {
  sweep_past_caches(count, [=, factor = set1(q)](long i, auto get, auto put) {
    put(a + i, add(get(b + i), mul(factor, get(c + i))));
  });
}

#else

constexpr StreamFunction streamed_copy = nullptr, streamed_scale = nullptr, streamed_add = nullptr,
                         streamed_triad = nullptr;

#endif

}  // namespace

inline BandwidthKernels bandwidth_kernels() {
  return {{{plain_copy, abstract_copy, streamed_copy},
           {plain_scale, abstract_scale, streamed_scale},
           {plain_add, abstract_add, streamed_add},
           {plain_triad, abstract_triad, streamed_triad}}};
}

}  // namespace twofold::TWOFOLD_ISA
