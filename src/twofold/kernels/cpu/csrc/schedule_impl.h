// Exact attention schedules and softmax, written once over `Vec`. See schedule_kernels.h.
#pragma once

#include "attention_impl.h"
#include "prefill_impl.h"
#include "schedule_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// --- blocks of keys outside ---

void keys_outside(const AttentionArgs& a, const Sequence& s, const int32_t* blocks, int head, int key_block,
                  int query_block, float* scratch) {
  const int dim = a.cache.k.dim, v_dim = a.cache.v.dim, width = padded(v_dim), stride = state_floats(v_dim);
  const int before = s.keys - s.queries, kv_head = kv_head_of(a, head);
  float* q = scratch;
  float* scores = q + kTileRows * kQueryStride;
  float* keys = scores + kTileRows * kScoreStride;
  float* values = keys + kMostBlockKeys * padded(dim);
  float* next = values + kMostBlockKeys * width;
  float* states = next + kTileRows * stride;
  alignas(64) float positions[kPartition];
  for (long i = 0; i < static_cast<long>(s.queries) * stride; i += kLanes) store(states + i, zero());
  for (int begin = 0; begin < s.keys; begin += key_block) {
    const int end = smaller(s.keys, begin + key_block), count = (end - begin + kChunk - 1) / kChunk;
    for (int n = 0; n < count; ++n) {
      const int first = begin + n * kChunk;
      unpack_keys(a.cache, kv_head, blocks, first, smaller(end, first + kChunk), keys + n * kChunk * dim);
    }
    unpack_values(a.cache, kv_head, blocks, begin, end, values);
    for (int i = 0; i < count * kChunk; ++i)
      positions[i] = begin + i < end ? static_cast<float>(begin + i) : kHidden;
    for (int row = larger(0, begin - before); row < s.queries; row += query_block) {
      const int rows = smaller(query_block, s.queries - row);
      load_queries(a, head, s.token + row, rows, q);
      for (int r = 0; r < rows; ++r)
        for (int i = 0; i < stride; i += kLanes) store(next + r * stride + i, zero());
      for (int n = 0; n < count; ++n)
        each_rows(rows, [&](int r, int part) {
          kTiles[part].panel_scores(q + r * kQueryStride, keys + n * kChunk * dim, dim,
                                    {0, smaller(kChunk, end - begin - n * kChunk)}, scores + r * kScoreStride + n * kChunk);
        });
      for (int r = 0; r < rows; ++r)
        soften_chosen(scores + r * kScoreStride, positions, count * kChunk, static_cast<float>(before + row + r),
                      a.softcap, next + r * stride + width);
      each_rows(rows, [&](int r, int part) {
        kTiles[part].panel_values(scores + r * kScoreStride, values, width, {0, end - begin}, next + r * stride, stride);
      });
      for (int r = 0; r < rows; ++r) merge(states + (row + r) * stride, next + r * stride, width);
    }
  }
  for (int row = 0; row < s.queries; ++row)
    finish(states + static_cast<long>(row) * stride, v_dim,
           a.out + (static_cast<long>(s.token + row) * a.heads + head) * v_dim);
}

// --- a stretch of the keys ---

void stretch(const AttentionArgs& a, const AttentionItem& item, float* scratch) {
  const int group = a.heads / a.cache.kv_heads, width = padded(a.cache.v.dim), stride = state_floats(a.cache.v.dim);
  float* q = scratch;
  float* scores = q + kTileRows * kQueryStride;
  float* panel = scores + kTileRows * kScoreStride;
  float* next = panel + kChunk * larger(padded(a.cache.k.dim), width);
  const Tile tile{a, item, group, item.queries * group, q, scores, panel};
  for (int row = 0; row < tile.rows; ++row) load_queries(a, item.kv_head * group + row % group, item.token + row / group, 1, q + row * kQueryStride);
  partition(tile, item.first * kPartition, item.partial);
  for (int part = item.first + 1; part < item.last; ++part) {
    partition(tile, part * kPartition, next);
    for (int row = 0; row < tile.rows; ++row) merge(item.partial + row * stride, next + row * stride, width);
  }
}

// --- softmax of a row ---

void softmax_three_passes(const float* x, float* y, long count) {
  const Vec lowest = set1(-3.0e38f);
  Vec top = lowest;
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) top = max(top, load(x + i));
  float maximum = max_of(top);
  for (long rest = i; rest < count; ++rest) maximum = x[rest] > maximum ? x[rest] : maximum;
  const Vec shift = set1(maximum);
  Vec total = zero();
  for (i = 0; i + kLanes <= count; i += kLanes) total = add(total, exp(sub(load(x + i), shift)));
  if (i < count) total = add(total, keep(exp(sub(load(x + i, static_cast<int>(count - i)), shift)), 0, static_cast<int>(count - i), zero()));
  const Vec share = set1(1.0f / sum(total));
  for (i = 0; i + kLanes <= count; i += kLanes) store(y + i, mul(exp(sub(load(x + i), shift)), share));
  if (i < count)
    store(y + i, mul(exp(sub(load(x + i, static_cast<int>(count - i)), shift)), share), static_cast<int>(count - i));
}

void softmax_two_passes(const float* x, float* y, long count) {
  PairSum found;
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) found.add(load(x + i));
  if (i < count) found.add(load(x + i, static_cast<int>(count - i)), 0, static_cast<int>(count - i));
  float mantissa, exponent;
  found.total(mantissa, exponent);
  const Vec share = set1(1.0f / mantissa), origin = set1(exponent);
  for (i = 0; i + kLanes <= count; i += kLanes) store(y + i, mul(pair_weight(load(x + i), origin), share));
  if (i < count)
    store(y + i, mul(pair_weight(load(x + i, static_cast<int>(count - i)), origin), share), static_cast<int>(count - i));
}

}  // namespace

inline ScheduleKernels schedule_kernels() {
  return {keys_outside, stretch, softmax_three_passes, softmax_two_passes};
}

}  // namespace twofold::TWOFOLD_ISA
