// Where a register tile of attention reads keys and values from: a float32 panel, or straight from the cache, where
// there is only one tile of rows to widen them for. Both give the same numbers.
#pragma once

#include "attention_kernels.h"
#include "attention_unpack.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

template <int N>
struct Count {
  static constexpr int value = N;
};

template <CacheFormat F>
struct Stored;  // the element type of a format's codes, and codes in a row of `dim` elements
template <>
struct Stored<CacheFormat::f32> {
  using Code = float;
  static int width(int dim) { return dim; }
  static Vec load(const Code* p) { return twofold::TWOFOLD_ISA::load(p); }
};
template <>
struct Stored<CacheFormat::f16> {
  using Code = half;
  static int width(int dim) { return dim; }
  static Vec load(const Code* p) { return load_half(p); }
};
template <>
struct Stored<CacheFormat::int8> {
  using Code = int8_t;
  static int width(int dim) { return dim; }
  static Vec load(const Code* p) { return load_int8(p); }
};
template <>
struct Stored<CacheFormat::int4> {
  using Code = uint8_t;
  static int width(int dim) { return dim / 2; }
};

// One KV head of a sequence in the cache.
struct Head {
  const PagedCache& cache;
  int index;
  const int32_t* blocks;

  long block(int key) const { return blocks[key / cache.block_size]; }
  int at(int key) const { return key % cache.block_size; }
};

// --- keys: V vectors of them, element by element ---
// A source yields elements in segments, kAtOnce at a time: enter(segment) gives its length, load(i, v, x) elements
// i … i + kAtOnce - 1 for the keys of vector v.

template <int V>
struct PanelKeys {
  static constexpr int kAtOnce = 1;
  const float* panel;
  int dim;

  int segments() const { return 1; }
  int enter(int) { return dim; }
  void load(int i, int v, Vec* x) const { x[0] = twofold::TWOFOLD_ISA::load(panel + i * kChunk + v * kLanes); }
};

// Straight from the cache; vectors that start at or behind `last` repeat the first one.
template <CacheFormat F, int V>
struct StoredKeys {
  using Code = typename Stored<F>::Code;
  static constexpr int kAtOnce = F == CacheFormat::int4 ? 2 : 1;
  const PagedCache& cache;
  const Code* codes[V];
  const half* scales[V];
  const half* minima[V];
  const Code* row[V];
  Vec scale[V], minimum[V];

  StoredKeys(const Head& head, int key, int last) : cache(head.cache) {
    const int dim = cache.k.dim;
    for (int v = 0; v < V; ++v) {
      const int from = key + v * kLanes < last ? key + v * kLanes : key;
      const long block = head.block(from);
      const int at = head.at(from);
      codes[v] = static_cast<const Code*>(cache.k.codes) + plane(cache, block, head.index, Stored<F>::width(dim)) + at;
      const long group = plane(cache, block, head.index, F == CacheFormat::int4 ? groups_of(dim) : 1) + at;
      scales[v] = cache.k.scale + group;
      minima[v] = cache.k.minimum + group;
    }
  }

  int segments() const { return F == CacheFormat::int4 ? groups_of(cache.k.dim) : 1; }

  int enter(int group) {
    const int dim = cache.k.dim;
    const long size = cache.block_size;
    if (F == CacheFormat::int4) {
      for (int v = 0; v < V; ++v) {
        row[v] = codes[v] + group * (kCodeGroup / 2) * size;
        scale[v] = load_half(scales[v] + group * size);
        minimum[v] = load_half(minima[v] + group * size);
      }
      return smaller(kCodeGroup, dim - group * kCodeGroup);
    }
    for (int v = 0; v < V; ++v) {
      row[v] = codes[v];
      if (F == CacheFormat::int8) scale[v] = load_half(scales[v]);
    }
    return dim;
  }

  void load(int i, int v, Vec* x) const {
    const Code* p = row[v] + static_cast<long>(i / kAtOnce) * cache.block_size;
    if constexpr (F == CacheFormat::int4) {
      load_nibbles(p, x[0], x[1]);
      x[0] = fma(x[0], scale[v], minimum[v]);
      x[1] = fma(x[1], scale[v], minimum[v]);
    } else if constexpr (F == CacheFormat::int8) {
      x[0] = mul(Stored<F>::load(p), scale[v]);
    } else {
      x[0] = Stored<F>::load(p);
    }
  }
};

// --- values: V vectors of each entry, entry by entry ---
// A source yields entries in runs: run(key, last) gives how many follow each other from there; load(i, v) vector v of
// entry i of the run.

template <int V>
struct PanelValues {
  const float* panel;  // entry `first`, at the first of the vectors
  int first, width;
  const float* from = nullptr;

  int run(int key, int last) {
    from = panel + static_cast<long>(key - first) * width;
    return last - key;
  }
  void enter(int) {}
  Vec load(int i, int v) const { return twofold::TWOFOLD_ISA::load(from + static_cast<long>(i) * width + v * kLanes); }
};

// Straight from the cache; only where whole vectors fill the rows (in 4 bits: whole groups).
template <CacheFormat F, int V>
struct StoredValues {
  using Code = typename Stored<F>::Code;
  static constexpr int kGroups = F == CacheFormat::int4 ? kMaxHeadDim / kCodeGroup : 1;
  const Head& head;
  int element;  // the first of the vectors
  const Code* from = nullptr;
  const float *scales = nullptr, *minima = nullptr;
  Vec scale[V], minimum[V];
  alignas(64) float wide_scales[kKeyGroup * kGroups], wide_minima[F == CacheFormat::int4 ? kKeyGroup * kGroups : 1];

  StoredValues(const Head& head, int element) : head(head), element(element) {}

  // At most 16 entries, whose scales are widened together.
  int run(int key, int last) {
    const PagedCache& cache = head.cache;
    const int dim = cache.v.dim, width = Stored<F>::width(dim), at = head.at(key), skipped = at % kKeyGroup;
    const long block = head.block(key);
    from = static_cast<const Code*>(cache.v.codes) + plane(cache, block, head.index, width);
    from += static_cast<long>(at) * width;
    if (F == CacheFormat::int8 || F == CacheFormat::int4) {
      const int groups = F == CacheFormat::int4 ? groups_of(dim) : 1;
      const long group = plane(cache, block, head.index, groups) + static_cast<long>(at - skipped) * groups;
      for (int i = 0; i < kKeyGroup * groups; i += kLanes) {
        store(wide_scales + i, load_half(cache.v.scale + group + i));
        if (F == CacheFormat::int4) store(wide_minima + i, load_half(cache.v.minimum + group + i));
      }
      scales = wide_scales + skipped * groups;
      minima = wide_minima + skipped * groups;
    }
    return smaller(last - key, kKeyGroup - skipped);
  }

  // Elements of vector v within its group; a constant once loops over vectors are unrolled.
  int in_group(int v) const {
    constexpr bool kWhole = V * kLanes % kCodeGroup == 0;
    return (kWhole ? v * kLanes : element + v * kLanes) % kCodeGroup;
  }

  void enter(int i) {
    if (F == CacheFormat::int8) scale[0] = set1(scales[i]);
    if (F == CacheFormat::int4) {
      const int groups = head.cache.v.dim / kCodeGroup;
      for (int v = 0; v < V; ++v) {
        const int group = i * groups + (element + v * kLanes) / kCodeGroup;
        scale[v] = set1(scales[group]);
        minimum[v] = set1(minima[group]);
      }
    }
  }

  Vec load(int i, int v) const {
    const int at = element + v * kLanes;
    const Code* row = from + static_cast<long>(i) * Stored<F>::width(head.cache.v.dim);
    if constexpr (F == CacheFormat::int4) {
      constexpr int kHalf = kCodeGroup / 2;
      Vec low, high;
      load_nibbles(row + at / kCodeGroup * kHalf + in_group(v) % kHalf, low, high);
      return fma(in_group(v) < kHalf ? low : high, scale[v], minimum[v]);
    } else if constexpr (F == CacheFormat::int8) {
      return mul(Stored<F>::load(row + at), scale[0]);
    } else {
      return Stored<F>::load(row + at);
    }
  }
};

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
