// Entries of the paged cache: widening them to float32 panels, and storing new ones. See attention_kernels.h for the
// layout.
#pragma once

#include "attention_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kChunk = 64;    // keys of a panel
constexpr int kKeyGroup = 16;  // block sizes and chunks are multiples of it

inline int groups_of(int dim) { return (dim + kCodeGroup - 1) / kCodeGroup; }
inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

// Stored rows of one KV head and block: where its codes and scales start, in elements of each.
inline long plane(const PagedCache& cache, long block, int head, long width) {
  return (block * cache.kv_heads + head) * width * cache.block_size;
}

// Copies an entry in the order in which keys are widened: as it is, but in 4 bits the two elements of each byte next to
// each other. Queries are brought to the same order.
inline void stored_order(CacheFormat format, const float* from, int dim, float scale, float* to) {
  if (format != CacheFormat::int4) {
    for (int d = 0; d < dim; ++d) to[d] = from[d] * scale;
    return;
  }
  for (int d = 0; d < dim; d += kCodeGroup) {
    const int pairs = smaller(kCodeGroup, dim - d) / 2;
    for (int j = 0; j < pairs; ++j) {
      to[d + 2 * j] = from[d + j] * scale;
      to[d + 2 * j + 1] = from[d + j + pairs] * scale;
    }
  }
}

// --- keys: 16 entries by dim, a lane is a key; panel [dim][kChunk] ---

inline void unpack_keys_f32(const float* from, int stride, int dim, float* panel) {
  for (int d = 0; d < dim; ++d)
    for (int i = 0; i < kKeyGroup; i += kLanes)
      store(panel + d * kChunk + i, load(from + static_cast<long>(d) * stride + i));
}

inline void unpack_keys_f16(const half* from, int stride, int dim, float* panel) {
  for (int d = 0; d < dim; ++d)
    for (int i = 0; i < kKeyGroup; i += kLanes)
      store(panel + d * kChunk + i, load_half(from + static_cast<long>(d) * stride + i));
}

inline void unpack_keys_int8(const int8_t* from, const half* scales, int stride, int dim, float* panel) {
  for (int i = 0; i < kKeyGroup; i += kLanes) {
    const Vec scale = load_half(scales + i);
    for (int d = 0; d < dim; ++d)
      store(panel + d * kChunk + i, mul(load_int8(from + static_cast<long>(d) * stride + i), scale));
  }
}

// Elements in the order of `stored_order`.
inline void unpack_keys_int4(const uint8_t* from, const half* scales, const half* minima, int stride, int dim,
                             float* panel) {
  for (int d = 0, group = 0; d < dim; d += kCodeGroup, ++group) {
    const int pairs = smaller(kCodeGroup, dim - d) / 2;
    for (int i = 0; i < kKeyGroup; i += kLanes) {
      const Vec scale = load_half(scales + static_cast<long>(group) * stride + i);
      const Vec minimum = load_half(minima + static_cast<long>(group) * stride + i);
      for (int j = 0; j < pairs; ++j) {
        Vec low, high;
        load_nibbles(from + static_cast<long>(d / 2 + j) * stride + i, low, high);
        store(panel + (d + 2 * j) * kChunk + i, fma(low, scale, minimum));
        store(panel + (d + 2 * j + 1) * kChunk + i, fma(high, scale, minimum));
      }
    }
  }
}

// Widens keys first … last - 1 of the sequence, rounded out to groups of 16, to panel columns 0 … .
// `first` is a multiple of 16.
inline void unpack_keys(const PagedCache& cache, int head, const int32_t* blocks, int first, int last, float* panel) {
  const int dim = cache.k.dim, size = cache.block_size;
  for (int key = first; key < last; key += kKeyGroup, panel += kKeyGroup) {
    const long block = blocks[key / size], at = key % size;
    const auto column = [&](const auto* codes, int width) { return codes + plane(cache, block, head, width) + at; };
    switch (cache.format) {
      case CacheFormat::f32:
        unpack_keys_f32(column(static_cast<const float*>(cache.k.codes), dim), size, dim, panel);
        break;
      case CacheFormat::f16:
        unpack_keys_f16(column(static_cast<const half*>(cache.k.codes), dim), size, dim, panel);
        break;
      case CacheFormat::int8:
        unpack_keys_int8(column(static_cast<const int8_t*>(cache.k.codes), dim), column(cache.k.scale, 1), size, dim,
                         panel);
        break;
      case CacheFormat::int4:
        unpack_keys_int4(column(static_cast<const uint8_t*>(cache.k.codes), dim / 2),
                         column(cache.k.scale, groups_of(dim)), column(cache.k.minimum, groups_of(dim)), size, dim,
                         panel);
        break;
      case CacheFormat::grouped:
        break;  // attention_grouped.h
    }
  }
}

// --- values: one entry after the other, a lane is an element; panel [keys][padded(dim)] ---

// The last vector of a row that does not fill it: through a copy, because there may be nothing behind the row.
template <typename T, typename Widen>
inline Vec widen_tail(const T* from, int count, Widen widen) {
  T row[kLanes] = {};
  for (int i = 0; i < count; ++i) row[i] = from[i];
  return widen(row);
}

template <typename T, typename Widen>
inline void unpack_row(const T* from, int dim, float* to, Widen widen) {
  int d = 0;
  for (; d + kLanes <= dim; d += kLanes) store(to + d, widen(from + d));
  if (d < dim) store(to + d, widen_tail(from + d, dim - d, widen));
  for (d += d < dim ? kLanes : 0; d < padded(dim); d += kLanes) store(to + d, zero());
}

inline void unpack_row_int4(const uint8_t* from, const half* scales, const half* minima, int dim, float* to) {
  for (int d = 0, group = 0; d < dim; d += kCodeGroup, ++group) {
    const int pairs = smaller(kCodeGroup, dim - d) / 2;
    const Vec scale = set1(half_value(scales[group])), minimum = set1(half_value(minima[group]));
    int j = 0;
    Vec low, high;
    for (; j + kLanes <= pairs; j += kLanes) {
      load_nibbles(from + d / 2 + j, low, high);
      store(to + d + j, fma(low, scale, minimum));
      store(to + d + j + pairs, fma(high, scale, minimum));
    }
    if (j < pairs) {
      uint8_t row[kLanes] = {};
      for (int i = 0; i < pairs - j; ++i) row[i] = from[d / 2 + j + i];
      load_nibbles(row, low, high);
      store(to + d + j, fma(low, scale, minimum), pairs - j);
      store(to + d + j + pairs, fma(high, scale, minimum), pairs - j);
    }
  }
  for (int d = dim; d < padded(dim); ++d) to[d] = 0.0f;
}

// Widens values first … last - 1 of the sequence to panel rows 0 … .
inline void unpack_values(const PagedCache& cache, int head, const int32_t* blocks, int first, int last, float* panel) {
  const int dim = cache.v.dim, size = cache.block_size, width = padded(dim);
  for (int key = first; key < last;) {
    const long block = blocks[key / size];
    const int end = smaller(last, (key / size + 1) * size);
    const auto row = [&](const auto* codes, int row_width, int at) {
      return codes + plane(cache, block, head, row_width) + static_cast<long>(at) * row_width;
    };
    for (int at = key % size; key < end; ++key, ++at, panel += width) {
      switch (cache.format) {
        case CacheFormat::f32:
          unpack_row(row(static_cast<const float*>(cache.v.codes), dim, at), dim, panel,
                     [](const float* p) { return load(p); });
          break;
        case CacheFormat::f16:
          unpack_row(row(static_cast<const half*>(cache.v.codes), dim, at), dim, panel,
                     [](const half* p) { return load_half(p); });
          break;
        case CacheFormat::int8: {
          const Vec scale = set1(half_value(*row(cache.v.scale, 1, at)));
          unpack_row(row(static_cast<const int8_t*>(cache.v.codes), dim, at), dim, panel,
                     [scale](const int8_t* p) { return mul(load_int8(p), scale); });
          break;
        }
        case CacheFormat::int4: {
          const int groups = groups_of(dim);
          unpack_row_int4(row(static_cast<const uint8_t*>(cache.v.codes), dim / 2, at), row(cache.v.scale, groups, at),
                          row(cache.v.minimum, groups, at), dim, panel);
          break;
        }
        case CacheFormat::grouped:
          break;  // attention_grouped.h
      }
    }
  }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
