// Sparse attention of prompts over the paged cache: which keys each tile of queries reads, and attending to those
// alone. The rules are those of techniques/attention/sparse_patterns.py, which is the reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention_kernels.h"
#include "step.h"

namespace twofold {

constexpr int kPrefillGroup = 16;  // neighbouring keys that are read together
constexpr int kColumnPanel = 64;   // columns of a panel

enum class HeadKind : int { a_shape, vertical_slash, block_sparse };

struct HeadPattern {
  HeadKind kind;
  int vertical, slash;
  int keys() const { return vertical + slash; }
};

// tile: queries that read the same keys, and keys of a block; last: queries that estimate; first, local: columns and
// diagonals that are always read.
struct PrefillPlan {
  std::vector<HeadPattern> patterns;
  int tile, last, first, local;

  bool is_sparse(const Sequence& s) const { return s.queries >= last && s.keys > patterns.front().keys(); }
  int tiles(const Sequence& s) const { return (s.queries + tile - 1) / tile; }
};

// `count` columns at ascending entries `at`, widened: keys in panels [dim][kColumnPanel], values [columns][padded dim].
struct Columns {
  const int32_t* at;
  int count;
  float *keys, *values;
};

// What the tiles of one head read: groups of keys of tile n at ends[n - 1] … ends[n] - 1, ascending; columns of all
// tiles, ascending, of which a tile reads those that are in none of its groups, and what these hold.
struct HeadIndex {
  std::vector<int32_t> groups, ends, columns;
  std::vector<float> column_keys, column_values;
  long pairs = 0;  // query-key pairs that its tiles compute

  Columns widened() {
    return {columns.data(), static_cast<int>(columns.size()), column_keys.data(), column_values.data()};
  }
};

struct PrefillIndex {
  PrefillPlan plan;
  std::vector<size_t> sequences;              // of the spans, those that are sparse
  std::vector<std::vector<HeadIndex>> heads;  // of each of them
  long pairs = 0, entries = 0;                // over all heads; distinct ones over all KV heads
};

// A tile of one head: `queries` tokens from `token` on, the first at entry `position`, and the groups that it reads.
struct PrefillItem {
  int head, token, queries, position;
  const int32_t* blocks;
  Columns columns;
  const int32_t *groups, *groups_end;
};

// Floats of scratch that one member needs to estimate over `keys` entries.
size_t estimate_scratch(int k_dim, int rows, int keys);

struct PrefillKernels {
  // Attention of the last `rows` queries of `s`, summed by column, and by distance back from the query, the longest
  // distance first: two [keys + 16].
  void (*estimate)(const AttentionArgs& args, const Sequence& s, const int32_t* blocks, int head, int rows,
                   float* columns, float* diagonals, float* scratch);
  // Products of the mean queries of tiles with the mean keys of blocks, both of `size`: [tiles][blocks]. means: of the
  // queries, [tiles][dim].
  void (*pool)(const AttentionArgs& args, const Sequence& s, const int32_t* blocks, int head, int size, float* means,
               float* scores, float* scratch);
  // Widens the columns of a head.
  void (*gather)(const AttentionArgs& args, const int32_t* blocks, int head, const Columns& columns, float* scratch);
  // Computes a tile.
  void (*attend)(const AttentionArgs& args, const PrefillItem& item, float* scratch);
};

}  // namespace twofold
