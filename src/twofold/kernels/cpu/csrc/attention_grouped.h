// A cache that stores old keys by channel and old values by token in groups of codes, and the newest entries of each
// sequence in float32 (the layout of techniques/cache/kivi_cache.py): widening it to panels, and storing new entries.
//
// What is stored how depends on the number of entries alone: `grouped_keys` and `grouped_values` of them are in groups.
// A step attends to what was stored before it, and to its own entries as they are; it stores them afterwards.
#pragma once

#include "attention_kernels.h"
#include "attention_store.h"
#include "attention_unpack.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kMaxGroup = 512;

inline int grouped_keys(const Grouped& g, int entries) { return entries - entries % g.residual; }
inline int grouped_values(const Grouped& g, int entries) { return larger(0, entries - g.residual); }

// --- groups ---

constexpr int kUsualGroup = 32;

// Byte j of a group of n codes holds codes j, j + n / p, j + 2 n / p … of p codes a byte, the first lowest.
template <int Bits>
inline void widen_codes(const uint8_t* codes, int count, float scale, float zero, float* out) {
  if (count == kUsualGroup) {
    const Vec s = set1(scale), z = set1(zero);
    each_code<Bits>(codes, [&](int i, Vec x) { store(out + i, fma(x, s, z)); });
    return;
  }
  constexpr int kPer = 8 / Bits, kMask = (1 << Bits) - 1;
  const int bytes = count / kPer;
  for (int part = 0; part < kPer; ++part)
    for (int j = 0; j < bytes; ++j)
      out[part * bytes + j] = static_cast<float>((codes[j] >> (Bits * part)) & kMask) * scale + zero;
}

// `count` numbers of fp16 as floats.
inline void widen_halves(const half* from, int count, float* to) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load_half(from + i));
  for (; i < count; ++i) to[i] = half_value(from[i]);
}

// As techniques/cache/groups.py does it: scale and zero point are rounded first, codes are chosen for those.
inline void store_group(const Grouped& g, const float* from, int count, uint8_t* codes, half* scale, half* zero) {
  float low = from[0], high = from[0];
  for (int i = 1; i < count; ++i) {
    low = from[i] < low ? from[i] : low;
    high = from[i] > high ? from[i] : high;
  }
  const float top = static_cast<float>((1 << g.bits) - 1);
  *zero = half_bits(limit(low, -kHalfMax, kHalfMax));
  *scale = half_bits(limit((high - low) / top, 0.0f, kHalfMax));
  const float step = half_value(*scale), inverse = step > 0.0f ? 1.0f / step : 0.0f, base = half_value(*zero);
  alignas(64) float found[kMaxGroup];
  for (int i = 0; i < count; i += kLanes) {
    const int part = smaller(kLanes, count - i);
    const Vec x = mul(sub(load(from + i, part), set1(base)), set1(inverse));
    store(found + i, min(max(round(x), twofold::TWOFOLD_ISA::zero()), set1(top)), part);
  }
  const int per = 8 / g.bits, bytes = count / per;
  for (int j = 0; j < bytes; ++j) {
    int byte = 0;
    for (int part = 0; part < per; ++part) byte |= static_cast<int>(found[part * bytes + j]) << (g.bits * part);
    codes[j] = static_cast<uint8_t>(byte);
  }
}

// One KV head of one sequence: where its groups, windows and drafts lie.
struct GroupedHead {
  const PagedCache& cache;
  const Grouped& g;
  int head, row;
  const int32_t* blocks;

  int key_bytes() const { return g.group * g.bits / 8; }
  int value_bytes() const { return g.value_group * g.bits / 8; }
  // The group of keys that begins at entry `key`: index of its first channel.
  long key_group(int key) const {
    const long block = blocks[key / cache.block_size], in_block = key % cache.block_size / g.group;
    return ((block * (cache.block_size / g.group) + in_block) * cache.kv_heads + head) * cache.k.dim;
  }
  // The first group of values of entry `key`.
  long value_group(int key) const {
    const long slot = static_cast<long>(blocks[key / cache.block_size]) * cache.block_size + key % cache.block_size;
    return (slot * cache.kv_heads + head) * (cache.v.dim / g.value_group);
  }
  // [dim][residual]: key n in column n % residual.
  float* key_window() const {
    return g.k_window + (static_cast<long>(row) * cache.kv_heads + head) * cache.k.dim * g.residual;
  }
  // [residual][dim]: value n in row n % residual.
  float* value_window() const {
    return g.v_window + (static_cast<long>(row) * cache.kv_heads + head) * cache.v.dim * g.residual;
  }
  // Draft number n of the row: [dim].
  float* key_draft(int n) const {
    return g.k_drafts + ((static_cast<long>(row) * g.drafts + n) * cache.kv_heads + head) * cache.k.dim;
  }
  float* value_draft(int n) const {
    return g.v_drafts + ((static_cast<long>(row) * g.drafts + n) * cache.kv_heads + head) * cache.v.dim;
  }
};

// --- reading ---

// Keys `key` … stored - 1, to the panel that begins with key `first`.
template <int Bits>
void key_groups(const GroupedHead& h, int first, int key, int stored, float* panel) {
  const Grouped& g = h.g;
  const int dim = h.cache.k.dim, bytes = g.group * Bits / 8;
  alignas(64) float scales[kMaxHeadDim], zeros[kMaxHeadDim], whole[kMaxGroup];
  while (key < stored) {
    const int skipped = key % g.group, count = smaller(g.group - skipped, stored - key);
    const long at = h.key_group(key - skipped);
    const uint8_t* codes = static_cast<const uint8_t*>(h.cache.k.codes) + at * bytes;
    widen_halves(h.cache.k.scale + at, dim, scales);
    widen_halves(h.cache.k.minimum + at, dim, zeros);
    float* to = panel + key - first;
    for (int d = 0; d < dim; ++d, codes += bytes, to += kChunk) {
      if (count == g.group) {
        widen_codes<Bits>(codes, g.group, scales[d], zeros[d], to);
        continue;
      }
      widen_codes<Bits>(codes, g.group, scales[d], zeros[d], whole);
      for (int i = 0; i < count; ++i) to[i] = whole[skipped + i];
    }
    key += count;
  }
}

// Widens keys first … last - 1 to panel columns 0 …; those from entry `base` on are new: `fresh`, `stride` apart.
inline void grouped_key_panel(const GroupedHead& h, const float* fresh, long stride, int base, int first, int last,
                              float* panel) {
  const Grouped& g = h.g;
  const int dim = h.cache.k.dim, stored = smaller(last, grouped_keys(g, base)), kept = smaller(last, base);
  const auto groups = g.bits == 2 ? key_groups<2> : g.bits == 4 ? key_groups<4> : key_groups<8>;
  groups(h, first, first, stored, panel);
  int key = larger(first, stored);
  if (key < kept) {  // the window of keys never wraps around: it is emptied when it is full
    const float* window = h.key_window() + key % g.residual;
    for (int d = 0; d < dim; ++d) {
      float* to = panel + d * kChunk + key - first;
      for (int i = 0; i < kept - key; ++i) to[i] = window[static_cast<long>(d) * g.residual + i];
    }
    key = kept;
  }
  for (; key < last; ++key) {
    const float* from = fresh + (key - base) * stride;
    for (int d = 0; d < dim; ++d) panel[d * kChunk + key - first] = from[d];
  }
}

// Values `key` … stored - 1, to rows of the panel; returns the row behind them.
template <int Bits>
float* value_groups(const GroupedHead& h, int key, int stored, float* panel) {
  const Grouped& g = h.g;
  const int dim = h.cache.v.dim, width = padded(dim), bytes = g.value_group * Bits / 8, groups = dim / g.value_group;
  for (; key < stored; ++key, panel += width) {
    const long at = h.value_group(key);
    const uint8_t* codes = static_cast<const uint8_t*>(h.cache.v.codes) + at * bytes;
    for (int i = 0; i < groups; ++i, codes += bytes)
      widen_codes<Bits>(codes, g.value_group, half_value(h.cache.v.scale[at + i]), half_value(h.cache.v.minimum[at + i]),
                        panel + i * g.value_group);
    for (int d = dim; d < width; ++d) panel[d] = 0.0f;
  }
  return panel;
}

// The same of values as of keys, to panel rows 0 … .
inline void grouped_value_panel(const GroupedHead& h, const float* fresh, long stride, int base, int first, int last,
                                float* panel) {
  const Grouped& g = h.g;
  const int dim = h.cache.v.dim, width = padded(dim), stored = smaller(last, grouped_values(g, base));
  const auto groups = g.bits == 2 ? value_groups<2> : g.bits == 4 ? value_groups<4> : value_groups<8>;
  panel = groups(h, first, stored, panel);
  const float* window = h.value_window();
  for (int key = larger(first, stored); key < last; ++key, panel += width) {
    const float* from = key < base ? window + static_cast<long>(key % g.residual) * dim : fresh + (key - base) * stride;
    for (int d = 0; d < dim; ++d) panel[d] = from[d];
    for (int d = dim; d < width; ++d) panel[d] = 0.0f;
  }
}

// --- storing ---

// Takes `count` new entries behind `base`: groups what becomes old, keeps the rest in the windows.
inline void absorb(const GroupedHead& h, const float* k, long k_stride, const float* v, long v_stride, int base,
                   int count) {
  const Grouped& g = h.g;
  const PagedCache& cache = h.cache;
  const int end = base + count, keys = grouped_keys(g, end), values = grouped_values(g, end);
  float* const key_window = h.key_window();
  float* const value_window = h.value_window();
  alignas(64) float group[kMaxGroup];
  for (int first = grouped_keys(g, base); first < keys; first += g.group) {
    const long at = h.key_group(first);
    for (int d = 0; d < cache.k.dim; ++d) {
      for (int i = 0; i < g.group; ++i) {
        const int key = first + i;
        group[i] = key < base ? key_window[static_cast<long>(d) * g.residual + key % g.residual]
                              : k[(key - base) * k_stride + d];
      }
      store_group(g, group, g.group, static_cast<uint8_t*>(cache.k.codes) + (at + d) * h.key_bytes(),
                  cache.k.scale + at + d, cache.k.minimum + at + d);
    }
  }
  for (int key = grouped_values(g, base); key < values; ++key) {
    const float* from = key < base ? value_window + static_cast<long>(key % g.residual) * cache.v.dim
                                   : v + (key - base) * v_stride;
    const long at = h.value_group(key);
    for (int i = 0; i * g.value_group < cache.v.dim; ++i)
      store_group(g, from + i * g.value_group, g.value_group,
                  static_cast<uint8_t*>(cache.v.codes) + (at + i) * h.value_bytes(), cache.v.scale + at + i,
                  cache.v.minimum + at + i);
  }
  for (int key = larger(base, keys); key < end; ++key)
    for (int d = 0; d < cache.k.dim; ++d)
      key_window[static_cast<long>(d) * g.residual + key % g.residual] = k[(key - base) * k_stride + d];
  for (int key = larger(base, values); key < end; ++key)
    for (int d = 0; d < cache.v.dim; ++d)
      value_window[static_cast<long>(key % g.residual) * cache.v.dim + d] = v[(key - base) * v_stride + d];
}

// Stores the new entries of one sequence and KV head; its drafts wait for `commit_drafts`.
void store_grouped(const GroupedWriteArgs& args, const Sequence& s, const int32_t* blocks, int head) {
  const PagedCache& cache = args.cache;
  const GroupedHead h{cache, cache.grouped, head, s.row, blocks};
  const int base = s.keys - s.queries, count = s.queries - s.drafts;
  const float* k = args.k + s.token * args.k_stride + static_cast<long>(head) * cache.k.dim;
  const float* v = args.v + s.token * args.v_stride + static_cast<long>(head) * cache.v.dim;
  absorb(h, k, args.k_stride, v, args.v_stride, base, count);
  for (int n = 0; n < s.drafts; ++n) {
    for (int d = 0; d < cache.k.dim; ++d) h.key_draft(n)[d] = k[(count + n) * args.k_stride + d];
    for (int d = 0; d < cache.v.dim; ++d) h.value_draft(n)[d] = v[(count + n) * args.v_stride + d];
  }
}

// The first `count` drafts of a row were right: stores them behind its `base` entries.
void commit_drafts(const PagedCache& cache, int row, const int32_t* blocks, int base, int count) {
  for (int head = 0; head < cache.kv_heads; ++head) {
    const GroupedHead h{cache, cache.grouped, head, row, blocks};
    absorb(h, h.key_draft(0), static_cast<long>(cache.kv_heads) * cache.k.dim, h.value_draft(0),
           static_cast<long>(cache.kv_heads) * cache.v.dim, base, count);
  }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
