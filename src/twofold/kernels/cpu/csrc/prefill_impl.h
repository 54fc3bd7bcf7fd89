// Sparse attention of prompts, written once over `Vec`. See prefill_kernels.h.
//
// A tile of queries goes over the keys that it reads as if they followed each other: up to 256 of them at a time, in
// panels of four groups, or of 64 columns that were widened before for all tiles. Each pass leaves a state, as a
// partition of attention_impl.h does.
#pragma once

#include "attention_impl.h"
#include "attention_tiles.h"
#include "attention_unpack.h"
#include "prefill_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

static_assert(kPrefillGroup == kKeyGroup && kColumnPanel == kChunk, "groups and panels are those of attention");
constexpr float kHidden = 3.0e38f;  // the position of a column that nobody sees
constexpr int kPanels = kPartition / kChunk;

// Calls work(first row, rows) for register tiles of nearly equal size.
template <typename Work>
inline void each_rows(int rows, Work work) {
  const int tiles = (rows + kMaxTile - 1) / kMaxTile;
  for (int tile = 0, row = 0; tile < tiles; ++tile) {
    const int count = (rows - row + tiles - tile - 1) / (tiles - tile);
    work(row, count);
    row += count;
  }
}

inline void load_queries(const AttentionArgs& a, int head, int token, int rows, float* q) {
  const int dim = a.cache.k.dim;
  for (int row = 0; row < rows; ++row)
    stored_order(a.cache.format, a.q + (token + row) * a.q_stride + static_cast<long>(head) * dim, dim, a.scale,
                 q + row * kQueryStride);
}

inline int kv_head_of(const AttentionArgs& a, int head) { return head / (a.heads / a.cache.kv_heads); }

// --- estimating ---

// Scores of `rows` queries over all keys, row by row `stride` apart; those of later keys are not masked.
inline void all_scores(const AttentionArgs& a, const Sequence& s, const int32_t* blocks, int kv_head, const float* q,
                       int rows, float* panel, float* scores, long stride) {
  alignas(64) float part[kMaxTile * kScoreStride];
  for (int key = 0; key < s.keys; key += kChunk) {
    const int count = smaller(kChunk, s.keys - key);
    unpack_keys(a.cache, kv_head, blocks, key, key + count, panel);
    each_rows(rows, [&](int row, int n) {
      kTiles[n].panel_scores(q + row * kQueryStride, panel, a.cache.k.dim, {0, count}, part);
      for (int r = 0; r < n; ++r)
        for (int i = 0; i < kChunk; i += kLanes)
          store(scores + (row + r) * stride + key + i, load(part + r * kScoreStride + i));
    });
  }
}

void estimate(const AttentionArgs& a, const Sequence& s, const int32_t* blocks, int head, int rows, float* columns,
              float* diagonals, float* scratch) {
  const long stride = (s.keys + kChunk - 1) / kChunk * kChunk;
  float* q = scratch;
  float* panel = q + static_cast<long>(rows) * kQueryStride;
  float* scores = panel + kChunk * padded(a.cache.k.dim);
  load_queries(a, head, s.token + s.queries - rows, rows, q);
  all_scores(a, s, blocks, kv_head_of(a, head), q, rows, panel, scores, stride);
  for (int i = 0; i < s.keys + kLanes; ++i) columns[i] = diagonals[i] = 0.0f;
  for (int row = 0; row < rows; ++row) {
    float* weights = scores + row * stride;
    const int seen = s.keys - rows + row + 1;
    float tail[2];
    soften(weights, {0, seen}, {0, seen}, a.softcap, tail);
    const Vec share = set1(1.0f / tail[1]);
    float* back = diagonals + s.keys - seen;  // the last key seen is at distance 0
    for (int key = 0; key < seen; key += kLanes) {
      const Vec weight = mul(load(weights + key), share);
      store(columns + key, add(load(columns + key), weight));
      store(back + key, add(load(back + key), weight));
    }
  }
}

void pool(const AttentionArgs& a, const Sequence& s, const int32_t* blocks, int head, int size, float* means,
          float* scores, float* scratch) {
  const int dim = a.cache.k.dim, kv_head = kv_head_of(a, head);
  const int tiles = (s.queries + size - 1) / size, count = (s.keys + size - 1) / size;
  float* row = scratch;
  float* panel = row + kMaxHeadDim;
  for (int tile = 0; tile < tiles; ++tile) {
    const int from = tile * size, rows = smaller(size, s.queries - from);
    float* mean = means + static_cast<long>(tile) * dim;
    for (int d = 0; d < dim; ++d) mean[d] = 0.0f;
    for (int r = 0; r < rows; ++r) {
      stored_order(a.cache.format, a.q + (s.token + from + r) * a.q_stride + static_cast<long>(head) * dim, dim,
                   1.0f / static_cast<float>(rows), row);
      for (int d = 0; d < dim; ++d) mean[d] += row[d];
    }
  }
  for (int block = 0; block < count; ++block) {
    const int first = block * size, last = smaller(s.keys, first + size);
    for (int d = 0; d < dim; ++d) row[d] = 0.0f;
    for (int key = first; key < last; key += kChunk) {
      const int n = smaller(kChunk, last - key);
      unpack_keys(a.cache, kv_head, blocks, key, key + n, panel);
      for (int d = 0; d < dim; ++d)
        for (int i = 0; i < n; ++i) row[d] += panel[d * kChunk + i];
    }
    for (int tile = 0; tile < tiles; ++tile) {
      float product = 0.0f;
      for (int d = 0; d < dim; ++d) product += means[static_cast<long>(tile) * dim + d] * row[d];
      scores[static_cast<long>(tile) * count + block] = product / static_cast<float>(last - first);
    }
  }
}

// --- columns ---

void gather(const AttentionArgs& a, const int32_t* blocks, int head, const Columns& columns, float* scratch) {
  const int dim = a.cache.k.dim, width = padded(a.cache.v.dim), kv_head = kv_head_of(a, head);
  for (int i = 0, held = -1; i < columns.count; ++i) {
    const int key = columns.at[i], group = key / kKeyGroup, at = key % kKeyGroup;
    if (group != held) unpack_keys(a.cache, kv_head, blocks, group * kKeyGroup, group * kKeyGroup + 1, scratch);
    held = group;
    float* to = columns.keys + static_cast<long>(i / kChunk) * kChunk * dim + i % kChunk;
    for (int d = 0; d < dim; ++d) to[d * kChunk] = scratch[d * kChunk + at];
    unpack_values(a.cache, kv_head, blocks, key, key + 1, columns.values + static_cast<long>(i) * width);
  }
}

// --- a tile ---

// Up to 64 of a tile's keys: groups that are still to be widened, or columns that are.
struct Panel {
  const int32_t* at;           // groups, or entries of columns
  int count;                   // of them
  const float *keys, *values;  // of columns; null for groups

  bool is_columns() const { return keys != nullptr; }
  int size() const { return is_columns() ? count : count * kKeyGroup; }
};

// Turns scores of keys at `positions` [0, count) into weights, as `soften` does; a row sees what is not behind it.
inline void soften_chosen(float* scores, const float* positions, int count, float row, float softcap, float* tail) {
  const Vec lowest = set1(-3.0e38f), cap = set1(softcap), own = set1(row);
  Vec top = lowest;
  for (int i = 0; i < count; i += kLanes) {
    Vec x = load(scores + i);
    if (softcap != 0.0f) x = soft_cap(x, cap);
    x = select_less(own, load(positions + i), lowest, x);
    store(scores + i, x);
    top = max(top, x);
  }
  const float maximum = max_of(top);
  Vec total = zero();
  for (int i = 0; i < count; i += kLanes) {
    const Vec w = select_less(own, load(positions + i), zero(), exp(sub(load(scores + i), set1(maximum))));
    store(scores + i, w);
    total = add(total, w);
  }
  tail[0] = maximum;
  tail[1] = sum(total);
}

struct ChosenTile {
  const AttentionArgs& a;
  const PrefillItem& item;
  int kv_head;
  float *q, *scores, *panel;

  // Where each key of a panel stands; a column that one of the tile's groups holds is hidden.
  void locate(const Panel& from, float* positions) const {
    if (from.is_columns()) {
      const int32_t* group = item.groups;
      for (int i = 0; i < from.count; ++i) {
        while (group != item.groups_end && *group < from.at[i] / kKeyGroup) ++group;
        const bool held = group != item.groups_end && *group == from.at[i] / kKeyGroup;
        positions[i] = held ? kHidden : static_cast<float>(from.at[i]);
      }
    } else {
      for (int n = 0; n < from.count; ++n)
        for (int i = 0; i < kKeyGroup; ++i)
          positions[n * kKeyGroup + i] = static_cast<float>(from.at[n] * kKeyGroup + i);
    }
    for (int i = from.size(); i < kChunk; ++i) positions[i] = kHidden;
  }

  // The keys of a panel in float32: [dim][kChunk].
  const float* keys_of(const Panel& from) const {
    if (from.is_columns()) return from.keys;
    for (int n = 0; n < from.count; ++n)
      unpack_keys(a.cache, kv_head, item.blocks, from.at[n] * kKeyGroup, from.at[n] * kKeyGroup + 1,
                  panel + n * kKeyGroup);
    return panel;
  }

  // The values of a panel: [keys][padded dim]. Those of entries behind the tile's last query are taken for zero.
  const float* values_of(const Panel& from) const {
    if (from.is_columns()) return from.values;
    const int width = padded(a.cache.v.dim), end = item.position + item.queries;
    for (int n = 0; n < from.count; ++n) {
      const int first = from.at[n] * kKeyGroup, last = smaller(first + kKeyGroup, end);
      float* to = panel + n * kKeyGroup * width;
      unpack_values(a.cache, kv_head, item.blocks, first, last, to);
      for (int i = (last - first) * width; i < kKeyGroup * width; ++i) to[i] = 0.0f;
    }
    return panel;
  }

  // The states of all rows after `count` panels.
  void pass(const Panel* panels, int count, float* states) const {
    const int width = padded(a.cache.v.dim), stride = state_floats(a.cache.v.dim), rows = item.queries;
    alignas(64) float positions[kPartition];
    for (int row = 0; row < rows; ++row)
      for (int i = 0; i < stride; i += kLanes) store(states + row * stride + i, zero());
    for (int n = 0; n < count; ++n) {
      locate(panels[n], positions + n * kChunk);
      const float* keys = keys_of(panels[n]);
      each_rows(rows, [&](int row, int part) {
        kTiles[part].panel_scores(q + row * kQueryStride, keys, a.cache.k.dim, {0, panels[n].size()},
                                  scores + row * kScoreStride + n * kChunk);
      });
    }
    for (int row = 0; row < rows; ++row)
      soften_chosen(scores + row * kScoreStride, positions, count * kChunk, static_cast<float>(item.position + row),
                    a.softcap, states + row * stride + width);
    for (int n = 0; n < count; ++n) {
      const float* values = values_of(panels[n]);
      each_rows(rows, [&](int row, int part) {
        kTiles[part].panel_values(scores + row * kScoreStride + n * kChunk, values, width, {0, panels[n].size()},
                                  states + row * stride, stride);
      });
    }
  }
};

void attend_chosen(const AttentionArgs& a, const PrefillItem& item, float* scratch) {
  const int dim = a.cache.k.dim, v_dim = a.cache.v.dim, stride = state_floats(v_dim), rows = item.queries;
  float* q = scratch;
  float* scores = q + kTileRows * kQueryStride;
  float* panel = scores + kTileRows * kScoreStride;
  float* next = panel + kChunk * larger(padded(dim), padded(v_dim));
  float* states = next + kTileRows * stride;
  const ChosenTile tile{a, item, kv_head_of(a, item.head), q, scores, panel};
  load_queries(a, item.head, item.token, rows, q);
  const Columns& all = item.columns;
  const int32_t* group = item.groups;
  int column = 0, columns = 0;  // columns before the tile's end
  while (columns < all.count && all.at[columns] < item.position + rows) ++columns;
  for (bool first = true; group != item.groups_end || column < columns; first = false) {
    Panel panels[kPanels];
    int count = 0;
    for (; count < kPanels && (group != item.groups_end || column < columns); ++count) {
      if (group != item.groups_end) {
        const int n = smaller(kChunk / kKeyGroup, static_cast<int>(item.groups_end - group));
        panels[count] = {group, n, nullptr, nullptr};
        group += n;
      } else {
        const int n = smaller(kChunk, columns - column);
        panels[count] = {all.at + column, n, all.keys + static_cast<long>(column) * dim,
                         all.values + static_cast<long>(column) * padded(v_dim)};
        column += n;
      }
    }
    tile.pass(panels, count, first ? states : next);
    if (first) continue;
    for (int row = 0; row < rows; ++row) merge(states + row * stride, next + row * stride, padded(v_dim));
  }
  for (int row = 0; row < rows; ++row)
    finish(states + row * stride, v_dim, a.out + (static_cast<long>(item.token + row) * a.heads + item.head) * v_dim);
}

}  // namespace

inline PrefillKernels prefill_kernels() { return {estimate, pool, gather, attend_chosen}; }

}  // namespace twofold::TWOFOLD_ISA
