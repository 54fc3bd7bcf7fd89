// Register tiles of attention: a few rows against a few vectors of keys or values, each of which is loaded once.
#pragma once

#include "attention_sources.h"
#include "simd.h"
#include "step.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kScoreStride = kPartition + 16;  // not a power of two: rows of a tile fall into different cache sets
constexpr int kQueryStride = kMaxHeadDim + 16;
constexpr int kMaxTile = 6;  // rows of a register tile

// Vectors of a register tile of `rows`: 12 accumulators fill the 16 registers of AVX2 and outlast an FMA's latency.
constexpr int tile_vectors(int rows) { return rows <= 3 || kLanes == 16 ? 4 : 2; }

struct KeyRange {
  int first, last;  // within the partition; empty where first >= last
};

// scores[r][0 … V vectors) = q[r] . keys, summed in the order of elements
template <int R, int V, typename Keys>
inline void score_tile(const float* q, Keys& keys, float* scores) {
  Vec sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = zero();
  for (int segment = 0, d = 0; segment < keys.segments(); ++segment) {
    const int count = keys.enter(segment);
    for (int i = 0; i < count; i += Keys::kAtOnce) {
      Vec x[V][Keys::kAtOnce];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) keys.load(i, v, x[v]);
#pragma GCC unroll 8
      for (int n = 0; n < Keys::kAtOnce; ++n)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Vec w = set1(q[r * kQueryStride + d + i + n]);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) sums[r][v] = fma(w, x[v][n], sums[r][v]);
        }
    }
    d += count;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(scores + r * kScoreStride + v * kLanes, sums[r][v]);
}

// state[r][0 … V vectors) += weights[r][key] * values[key] for keys first … last - 1, in their order
template <int R, int V, typename Values>
inline void value_tile(const float* weights, Values&& values, int first, int last, float* state, int stride) {
  Vec sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = load(state + r * stride + v * kLanes);
  for (int key = first; key < last;) {
    const int count = values.run(key, last);
    for (int i = 0; i < count; ++i, ++weights) {
      values.enter(i);
      Vec x[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) x[v] = values.load(i, v);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec w = set1(weights[r * kScoreStride]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = fma(w, x[v], sums[r][v]);
      }
    }
    key += count;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(state + r * stride + v * kLanes, sums[r][v]);
}

// --- over a panel: keys `range` of a chunk ---

template <int R>
void panel_scores(const float* q, const float* panel, int dim, KeyRange range, float* scores) {
  constexpr int V = tile_vectors(R);
  for (int key = range.first / (V * kLanes) * (V * kLanes); key < range.last; key += V * kLanes) {
    PanelKeys<V> keys{panel + key, dim};
    score_tile<R, V>(q, keys, scores + key);
  }
}

template <int R>
void panel_values(const float* weights, const float* panel, int width, KeyRange range, float* state, int stride) {
  constexpr int V = tile_vectors(R);
  const auto part = [&](auto vectors, int d) {
    constexpr int n = decltype(vectors)::value;
    value_tile<R, n>(weights + range.first, PanelValues<n>{panel + d, 0, width}, range.first, range.last, state + d,
                     stride);
  };
  int d = 0;
  for (; d + V * kLanes <= width; d += V * kLanes) part(Count<V>{}, d);
  for (; d < width; d += kLanes) part(Count<1>{}, d);
}

// --- straight from the cache: keys `range` of the partition that starts at entry `base` ---

template <CacheFormat F, int R>
void stored_scores(const Head& head, int base, KeyRange range, const float* q, float* scores) {
  constexpr int V = tile_vectors(R), kStep = V * kLanes;
  for (int key = range.first / kStep * kStep; key < range.last; key += kStep) {
    StoredKeys<F, V> keys(head, base + key, base + range.last);
    score_tile<R, V>(q, keys, scores + key);
  }
}

template <CacheFormat F, int R>
void stored_values(const Head& head, int base, KeyRange range, const float* weights, float* state, int stride) {
  constexpr int V = tile_vectors(R);
  const int dim = head.cache.v.dim;
  const auto part = [&](auto vectors, int d) {
    constexpr int n = decltype(vectors)::value;
    value_tile<R, n>(weights + range.first, StoredValues<F, n>(head, d), base + range.first,
                     base + range.last, state + d, stride);
  };
  int d = 0;
  for (; d + V * kLanes <= dim; d += V * kLanes) part(Count<V>{}, d);
  for (; d < dim; d += kLanes) part(Count<1>{}, d);
}

// --- tables by rows ---

struct Tiles {
  void (*panel_scores)(const float* q, const float* panel, int dim, KeyRange range, float* scores);
  void (*panel_values)(const float* weights, const float* panel, int width, KeyRange range, float* state, int stride);
};
template <int R>
constexpr Tiles kTilesOf{panel_scores<R>, panel_values<R>};
constexpr Tiles kTiles[] = {{}, kTilesOf<1>, kTilesOf<2>, kTilesOf<3>, kTilesOf<4>, kTilesOf<5>, kTilesOf<6>};

struct StoredTiles {
  void (*scores)(const Head& head, int base, KeyRange range, const float* q, float* scores);
  void (*values)(const Head& head, int base, KeyRange range, const float* weights, float* state, int stride);
};
template <CacheFormat F, int R>
constexpr StoredTiles kStoredOf{stored_scores<F, R>, stored_values<F, R>};
template <CacheFormat F>
constexpr StoredTiles kStored[] = {{},              kStoredOf<F, 1>, kStoredOf<F, 2>, kStoredOf<F, 3>,
                                   kStoredOf<F, 4>, kStoredOf<F, 5>, kStoredOf<F, 6>};

inline const StoredTiles& stored_tiles(CacheFormat format, int rows) {
  switch (format) {
    case CacheFormat::f32:
      return kStored<CacheFormat::f32>[rows];
    case CacheFormat::f16:
      return kStored<CacheFormat::f16>[rows];
    case CacheFormat::int8:
      return kStored<CacheFormat::int8>[rows];
    default:
      return kStored<CacheFormat::int4>[rows];
  }
}

// Whether values can be read in whole vectors.
inline bool whole_vectors(const PagedCache& cache) {
  return cache.v.dim % (cache.format == CacheFormat::int4 ? kCodeGroup : kLanes) == 0;
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
