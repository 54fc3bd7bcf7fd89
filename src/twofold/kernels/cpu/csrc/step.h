// The geometry of a step as native attention sees it: which tokens belong to which sequence and where its cache
// entries lie. Refilled before each step, read by recorded instructions when they run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "work.h"

namespace twofold {

// Keys that are attended to at once. Partitions start at multiples of this in every sequence, so that a row's result
// is the same whatever it is batched with and however the work is split.
constexpr int kPartition = 256;

// A sequence with at most this many new tokens may have its context split over the team.
constexpr int kMaxSplitQueries = 32;

inline int partitions(int keys) { return (keys + kPartition - 1) / kPartition; }

struct Sequence {
  int token;    // index of its first new token in the step
  int queries;  // new tokens
  int keys;     // entries that the last of them sees
  long table;   // index of its first block in Spans::blocks
  long unit;    // (query, partition) pairs of the sequences before it that may be split
  int row;      // its row in per-sequence stores
  int drafts;   // how many of its new tokens, the last, are guesses
};

class Spans {
 public:
  std::vector<Sequence> sequences;
  std::vector<int32_t> blocks;
  int block_size = 0;
  int tokens = 0;

  void clear(int size) {
    sequences.clear();
    blocks.clear();
    block_size = size;
    tokens = 0;
    units_ = 0;
  }

  // Adds a sequence whose blocks are already appended from index `table` on.
  void add(int queries, int keys, long table, int row, int drafts) {
    sequences.push_back({tokens, queries, keys, table, units_, row, drafts});
    tokens += queries;
    if (queries <= kMaxSplitQueries) units_ += static_cast<long>(queries) * partitions(keys);
  }

  // Room for `unit` floats of partial results for each (query, partition) pair, shared by all layers since they run one
  // after the other. Called when an op is submitted; `fit` after the spans have changed; neither while they are in use.
  void reserve(size_t unit) {
    if (unit > unit_) unit_ = unit;
    fit();
  }
  void fit() { partials_.reserve(unit_ * static_cast<size_t>(units_) * sizeof(float)); }
  float* partials() const { return reinterpret_cast<float*>(partials_.data()); }

 private:
  long units_ = 0;
  size_t unit_ = 0;
  Scratch partials_;
};

}  // namespace twofold
