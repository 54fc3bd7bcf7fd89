// Scans over the logits of one row. Comparisons with a NaN are false, so that NaN is never found.
#pragma once

#include <cstdint>

#include "elementwise_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// The largest of x [n], or -inf. The accumulator comes second, because max gives its second operand where one is NaN.
inline float largest(const float* x, long n) {
  Vec best[4] = {set1(kMinusInfinity), set1(kMinusInfinity), set1(kMinusInfinity), set1(kMinusInfinity)};
  long i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int c = 0; c < 4; ++c) best[c] = max(load(x + i + c * kLanes), best[c]);
  float found = max_of(max(max(best[0], best[1]), max(best[2], best[3])));
  for (; i < n; ++i)
    if (x[i] > found) found = x[i];
  return found;
}

long argmax(const float* x, long n, float* value) {
  constexpr long kBlock = 512;  // small enough to be searched again for the index
  long at = n;
  float best = kMinusInfinity;
  for (long start = 0; start < n; start += kBlock) {
    const long size = n - start < kBlock ? n - start : kBlock;
    const float found = largest(x + start, size);
    if (found > best) {
      best = found;
      at = start;
    }
  }
  if (at < n)
    while (x[at] != best) ++at;
  *value = best;
  return at;
}

inline unsigned long long above_lanes(const float* x, Vec threshold) {
  constexpr int kVectors = static_cast<int>(kScanLanes / kLanes);
  unsigned long long lanes = 0;
  for (int v = 0; v < kVectors; ++v)
    lanes |= static_cast<unsigned long long>(greater_lanes(load(x + v * kLanes), threshold)) << (v * kLanes);
  return lanes;
}

long above(const float* x, long n, float threshold, long* next, int32_t* found, long room) {
  const Vec limit = set1(threshold);
  long i = *next, count = 0;
  for (; i + kScanLanes <= n && count + kScanLanes <= room; i += kScanLanes)
    for (unsigned long long lanes = above_lanes(x + i, limit); lanes != 0; lanes &= lanes - 1)
      found[count++] = static_cast<int32_t>(i + __builtin_ctzll(lanes));
  if (i + kScanLanes > n)
    for (; i < n && count + kScanLanes <= room; ++i)
      if (x[i] > threshold) found[count++] = static_cast<int32_t>(i);
  *next = i;
  return count;
}

long count_above(const float* x, long n, float threshold) {
  const Vec limit = set1(threshold);
  long i = 0, count = 0;
  for (; i + kScanLanes <= n; i += kScanLanes) count += __builtin_popcountll(above_lanes(x + i, limit));
  for (; i < n; ++i) count += x[i] > threshold;
  return count;
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
