// Attention over the paged cache, written once over `Vec`. See attention_kernels.h for the layout.
//
// A partition (256 keys) of a tile of rows goes through three passes: scores, softmax, values. Where there are many
// rows, stored entries are widened to float32 once for all of them, a chunk of keys at a time, into a panel that stays
// in the first-level cache. Each number is summed in an order that depends on its keys alone, so that prefill and
// decode, any batch and any split give the same bits.
#pragma once

#include "attention_grouped.h"
#include "attention_kernels.h"
#include "attention_store.h"
#include "attention_tiles.h"
#include "attention_unpack.h"
#include "pair_exp.h"
#include "simd.h"
#include "step.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// --- softmax ---

// cap * tanh(x / cap)
inline Vec soft_cap(Vec x, Vec cap) {
  const Vec y = div(x, cap);
  const Vec e = exp(mul(set1(-2.0f), abs(y)));
  const Vec t = mul(cap, div(sub(set1(1.0f), e), add(set1(1.0f), e)));
  return max(min(x, t), sub(zero(), t));  // with the sign of x, since |t| <= |x|
}

// Turns the scores of keys `seen` into weights exp(score - maximum), zero in the rest of `range`. Writes the maximum
// and the sum of weights behind the row's sums.
inline void soften(float* scores, KeyRange seen, KeyRange range, float softcap, float* tail) {
  if (seen.first >= seen.last) {
    for (int key = range.first / kLanes * kLanes; key < range.last; key += kLanes) store(scores + key, zero());
    tail[0] = tail[1] = 0.0f;
    return;
  }
  const Vec lowest = set1(-3.0e38f), cap = set1(softcap);
  Vec top = lowest;
  for (int key = seen.first / kLanes * kLanes; key < seen.last; key += kLanes) {
    Vec x = load(scores + key);
    if (softcap != 0.0f) {
      x = soft_cap(x, cap);
      store(scores + key, x);
    }
    if (key < seen.first || key + kLanes > seen.last) x = keep(x, seen.first - key, seen.last - key, lowest);
    top = max(top, x);
  }
  const float maximum = max_of(top);
  Vec total = zero();
  for (int key = range.first / kLanes * kLanes; key < range.last; key += kLanes) {
    if (key + kLanes <= seen.first || key >= seen.last) {
      store(scores + key, zero());
      continue;
    }
    Vec w = exp(sub(load(scores + key), set1(maximum)));
    if (key < seen.first || key + kLanes > seen.last) w = keep(w, seen.first - key, seen.last - key, zero());
    store(scores + key, w);
    total = add(total, w);
  }
  tail[0] = maximum;
  tail[1] = sum(total);
}

// The same without a maximum: weights are exp(score) over a power of two.
inline void soften_pairs(float* scores, KeyRange seen, KeyRange range, float softcap, float* tail) {
  const Vec cap = set1(softcap);
  PairSum found;
  for (int key = seen.first / kLanes * kLanes; key < seen.last; key += kLanes) {
    Vec x = load(scores + key);
    if (softcap != 0.0f) {
      x = soft_cap(x, cap);
      store(scores + key, x);
    }
    found.add(x, seen.first - key, seen.last - key);
  }
  float exponent;
  found.total(tail[1], exponent);
  tail[0] = seen.first < seen.last ? exponent * 0.693147181f : 0.0f;
  const Vec origin = set1(exponent);
  for (int key = range.first / kLanes * kLanes; key < range.last; key += kLanes) {
    const Vec w = pair_weight(load(scores + key), origin);
    store(scores + key, keep(w, seen.first - key, seen.last - key, zero()));
  }
}

// --- states ---

// Takes the state `next` of a row's following partition into `state`. One copy of this code: both ways to reach a
// result must round alike.
__attribute__((noinline)) void merge(float* state, const float* next, int width) {
  float* tail = state + width;
  const float* next_tail = next + width;
  if (next_tail[1] == 0.0f) return;
  if (tail[1] == 0.0f) {
    for (int i = 0; i < width + 16; ++i) state[i] = next[i];
    return;
  }
  const float maximum = tail[0] > next_tail[0] ? tail[0] : next_tail[0];
  const Vec a = exp(set1(tail[0] - maximum)), b = exp(set1(next_tail[0] - maximum));
  for (int d = 0; d < width; d += kLanes) store(state + d, fma(load(state + d), a, mul(load(next + d), b)));
  tail[0] = maximum;
  tail[1] = max_of(fma(set1(tail[1]), a, mul(set1(next_tail[1]), b)));
}

__attribute__((noinline)) void finish(const float* state, int dim, float* out) {
  const Vec total = set1(state[padded(dim) + 1]);
  int d = 0;
  for (; d + kLanes <= dim; d += kLanes) store(out + d, div(load(state + d), total));
  if (d < dim) store(out + d, div(load(state + d), total), dim - d);
}

void combine(const float* states, long distance, int count, int dim, float* out) {
  const int width = padded(dim);
  alignas(64) float state[kMaxHeadDim + 16];
  for (int i = 0; i < width + 16; ++i) state[i] = states[i];
  for (int part = 1; part < count; ++part) merge(state, states + part * distance, width);
  finish(state, dim, out);
}

// --- a tile of rows over partitions ---

struct Tile {
  const AttentionArgs& args;
  const AttentionItem& item;
  int group;         // heads per KV head
  int rows;          // queries * group; row = query * group + head of the group
  float *q, *scores, *panel;

  // Keys of the partition that starts at entry `base` and that some of rows first … last - 1 see.
  KeyRange visible(int first, int last, int base) const {
    const int oldest = item.position + first / group, newest = item.position + (last - 1) / group;
    const int begin = args.window == 0 ? 0 : larger(0, oldest - args.window + 1);
    return {larger(0, begin - base), smaller(kPartition, newest + 1 - base)};
  }

  // Calls work(first row, rows, range) for each register tile with keys to see in the partition.
  template <typename Work>
  void each(int base, Work work) const {
    const int tiles = (rows + kMaxTile - 1) / kMaxTile;
    for (int tile = 0, row = 0; tile < tiles; ++tile) {
      const int count = (rows - row + tiles - tile - 1) / (tiles - tile);
      const KeyRange range = visible(row, row + count, base);
      if (range.first < range.last) work(row, count, range);
      row += count;
    }
  }
};

inline KeyRange clip(KeyRange range, int chunk) {
  return {larger(range.first - chunk, 0), smaller(range.last - chunk, kChunk)};
}

// Widens keys, or values, first … last - 1 of the item's sequence to `panel`.
void key_panel(const Tile& tile, int first, int last, float* panel) {
  const AttentionArgs& a = tile.args;
  const AttentionItem& item = tile.item;
  if (a.cache.format != CacheFormat::grouped) {
    unpack_keys(a.cache, item.kv_head, item.blocks, first, last, panel);
    return;
  }
  const GroupedHead head{a.cache, a.cache.grouped, item.kv_head, item.row, item.blocks};
  const float* fresh = a.k + item.start * a.k_stride + static_cast<long>(item.kv_head) * a.cache.k.dim;
  grouped_key_panel(head, fresh, a.k_stride, item.base, first, last, panel);
}
void value_panel(const Tile& tile, int first, int last, float* panel) {
  const AttentionArgs& a = tile.args;
  const AttentionItem& item = tile.item;
  if (a.cache.format != CacheFormat::grouped) {
    unpack_values(a.cache, item.kv_head, item.blocks, first, last, panel);
    return;
  }
  const GroupedHead head{a.cache, a.cache.grouped, item.kv_head, item.row, item.blocks};
  const float* fresh = a.v + item.start * a.v_stride + static_cast<long>(item.kv_head) * a.cache.v.dim;
  grouped_value_panel(head, fresh, a.v_stride, item.base, first, last, panel);
}

// Scores of all rows, each chunk of keys widened once.
void score_panels(const Tile& tile, int base, KeyRange all) {
  const PagedCache& cache = tile.args.cache;
  for (int chunk = all.first / kChunk * kChunk; chunk < all.last; chunk += kChunk) {
    key_panel(tile, base + chunk, base + smaller(all.last, chunk + kChunk), tile.panel);
    tile.each(base, [&](int row, int count, KeyRange range) {
      const KeyRange part = clip(range, chunk);
      if (part.first < part.last)
        kTiles[count].panel_scores(tile.q + row * kQueryStride, tile.panel, cache.k.dim, part,
                                   tile.scores + row * kScoreStride + chunk);
    });
  }
}

// Sums of values of all rows, likewise.
void value_panels(const Tile& tile, int base, KeyRange all, float* states, int stride) {
  const PagedCache& cache = tile.args.cache;
  const int width = padded(cache.v.dim);
  for (int chunk = all.first / kChunk * kChunk; chunk < all.last; chunk += kChunk) {
    const KeyRange inside = clip(all, chunk);
    value_panel(tile, base + chunk + inside.first, base + chunk + inside.last, tile.panel + inside.first * width);
    tile.each(base, [&](int row, int count, KeyRange range) {
      const KeyRange part = clip(range, chunk);
      if (part.first < part.last)
        kTiles[count].panel_values(tile.scores + row * kScoreStride + chunk, tile.panel, width, part,
                                   states + row * stride, stride);
    });
  }
}

// The states of all rows after the one partition that starts at entry `base`.
void partition(const Tile& tile, int base, float* states) {
  const AttentionArgs& a = tile.args;
  const int width = padded(a.cache.v.dim), stride = state_floats(a.cache.v.dim);
  const KeyRange all = tile.visible(0, tile.rows, base);
  for (int row = 0; row < tile.rows; ++row)
    for (int i = 0; i < stride; i += kLanes) store(states + row * stride + i, zero());
  if (all.first >= all.last) return;
  const bool single = tile.rows <= kMaxTile && a.cache.format != CacheFormat::grouped;
  const Head head{a.cache, tile.item.kv_head, tile.item.blocks};
  if (single) {
    stored_tiles(a.cache.format, tile.rows).scores(head, base, all, tile.q, tile.scores);
  } else {
    score_panels(tile, base, all);
  }
  tile.each(base, [&](int row, int count, KeyRange range) {
    for (int r = row; r < row + count; ++r)
      (a.pair_sums ? soften_pairs : soften)(tile.scores + r * kScoreStride, tile.visible(r, r + 1, base), range,
                                            a.softcap, states + r * stride + width);
  });
  if (single && whole_vectors(a.cache)) {
    stored_tiles(a.cache.format, tile.rows).values(head, base, all, tile.scores, states, stride);
  } else {
    value_panels(tile, base, all, states, stride);
  }
}

void attend(const AttentionArgs& a, const AttentionItem& item, float* scratch) {
  const int group = a.heads / a.cache.kv_heads, dim = a.cache.k.dim, v_dim = a.cache.v.dim;
  const int stride = state_floats(v_dim), head = item.kv_head * group;
  float* q = scratch;
  float* scores = q + kTileRows * kQueryStride;
  float* panel = scores + kTileRows * kScoreStride;
  float* next = panel + kChunk * larger(padded(dim), padded(v_dim));
  float* states = next + kTileRows * stride;
  const Tile tile{a, item, group, item.queries * group, q, scores, panel};
  for (int row = 0; row < tile.rows; ++row) {
    const float* from = a.q + (item.token + row / group) * a.q_stride + static_cast<long>(head + row % group) * dim;
    stored_order(a.cache.format, from, dim, a.scale, q + row * kQueryStride);
  }
  if (item.partial) {
    partition(tile, item.first * kPartition, item.partial);
    return;
  }
  partition(tile, item.first * kPartition, states);
  for (int part = item.first + 1; part < item.last; ++part) {
    partition(tile, part * kPartition, next);
    for (int row = 0; row < tile.rows; ++row) merge(states + row * stride, next + row * stride, padded(v_dim));
  }
  for (int row = 0; row < tile.rows; ++row)
    finish(states + row * stride, v_dim,
           a.out + (static_cast<long>(item.token + row / group) * a.heads + head + row % group) * v_dim);
}

}  // namespace

inline AttentionKernels attention_kernels() { return {store_entries, store_grouped, commit_drafts, attend, combine}; }

}  // namespace twofold::TWOFOLD_ISA
