// Storing new entries in the paged cache. The arithmetic is the same, operation by operation, as that of
// kernels/cpu/cache_formats.py, so that both leave the same bytes.
#pragma once

#include "attention_kernels.h"
#include "attention_unpack.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr float kHalfMax = 65504.0f;  // what is larger is stored as this: an infinity would poison later sums

inline float limit(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// Puts the elements of one entry `step` apart: 1 for values, the block size for keys.
template <typename T>
inline void scatter(const T* row, int count, T* to, long step) {
  for (int i = 0; i < count; ++i) to[i * step] = row[i];
}

inline void store_f16(const float* from, int dim, half* to, long step) {
  half row[kMaxHeadDim];
  for (int d = 0; d < dim; d += kLanes) {
    const int count = smaller(kLanes, dim - d);
    const Vec x = min(max(load(from + d, count), set1(-kHalfMax)), set1(kHalfMax));
    half bits[kLanes];
    store_half(bits, x);
    for (int i = 0; i < count; ++i) row[d + i] = bits[i];
  }
  scatter(row, dim, to, step);
}

inline void store_int8(const float* from, int dim, int8_t* to, half* scale, long step) {
  Vec top = zero();
  for (int d = 0; d < dim; d += kLanes) top = max(top, abs(load(from + d, smaller(kLanes, dim - d))));
  *scale = half_bits(limit(max_of(top) / 127.0f, 0.0f, kHalfMax));
  const float by = half_value(*scale) > 0.0f ? half_value(*scale) : 1.0f;
  int8_t row[kMaxHeadDim];
  for (int d = 0; d < dim; d += kLanes) {
    const int count = smaller(kLanes, dim - d);
    float codes[kLanes];
    store(codes, min(max(round(div(load(from + d, count), set1(by))), set1(-127.0f)), set1(127.0f)));
    for (int i = 0; i < count; ++i) row[d + i] = static_cast<int8_t>(codes[i]);
  }
  scatter(row, dim, to, step);
}

inline void store_int4(const float* from, int dim, uint8_t* to, half* scale, half* minimum, long step) {
  for (int d = 0, group = 0; d < dim; d += kCodeGroup, ++group) {
    const int count = smaller(kCodeGroup, dim - d), pairs = count / 2;
    float low = from[d], high = from[d];
    for (int i = 1; i < count; ++i) {
      low = from[d + i] < low ? from[d + i] : low;
      high = from[d + i] > high ? from[d + i] : high;
    }
    half* const to_scale = scale + group * step;
    half* const to_minimum = minimum + group * step;
    *to_scale = half_bits(limit((high - low) / 15.0f, 0.0f, kHalfMax));
    *to_minimum = half_bits(limit(low, -kHalfMax, kHalfMax));
    const float by = half_value(*to_scale) > 0.0f ? half_value(*to_scale) : 1.0f, base = half_value(*to_minimum);
    float codes[kCodeGroup];
    for (int i = 0; i < count; i += kLanes) {
      const int part = smaller(kLanes, count - i);
      const Vec x = div(sub(load(from + d + i, part), set1(base)), set1(by));
      store(codes + i, min(max(round(x), zero()), set1(15.0f)), part);
    }
    uint8_t bytes[kCodeGroup / 2];
    for (int j = 0; j < pairs; ++j)
      bytes[j] = static_cast<uint8_t>(static_cast<int>(codes[j]) | static_cast<int>(codes[j + pairs]) << 4);
    scatter(bytes, pairs, to + d / 2 * step, step);
  }
}

// One entry of one head at element `at` of its block; `step` elements lie between elements of an entry, `row` between
// entries of width one.
inline void store_side(const PagedCache& cache, const CacheSide& side, const float* from, long block, int at, int head,
                       bool transposed) {
  const int dim = side.dim;
  const long step = transposed ? cache.block_size : 1;
  const auto start = [&](int width) {
    return plane(cache, block, head, width) + (transposed ? at : static_cast<long>(at) * width);
  };
  switch (cache.format) {
    case CacheFormat::f32:
      scatter(from, dim, static_cast<float*>(side.codes) + start(dim), step);
      break;
    case CacheFormat::f16:
      store_f16(from, dim, static_cast<half*>(side.codes) + start(dim), step);
      break;
    case CacheFormat::int8:
      store_int8(from, dim, static_cast<int8_t*>(side.codes) + start(dim), side.scale + start(1), step);
      break;
    case CacheFormat::int4: {
      const long group = start(groups_of(dim));
      store_int4(from, dim, static_cast<uint8_t*>(side.codes) + start(dim / 2), side.scale + group,
                 side.minimum + group, step);
      break;
    }
    case CacheFormat::grouped:
      break;  // by sequence: attention_grouped.h
  }
}

void store_entries(const CacheWriteArgs& args, long first, long last) {
  const PagedCache& cache = args.cache;
  for (long item = first; item < last; ++item) {
    const long token = item / cache.kv_heads;
    const int head = static_cast<int>(item % cache.kv_heads);
    const long slot = args.slots[token];
    const long block = slot / cache.block_size;
    const int at = static_cast<int>(slot % cache.block_size);
    store_side(cache, cache.k, args.k + token * args.k_stride + static_cast<long>(head) * cache.k.dim, block, at, head,
               true);
    store_side(cache, cache.v, args.v + token * args.v_stride + static_cast<long>(head) * cache.v.dim, block, at, head,
               false);
  }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
