// Exact attention in other orders than that of attention_impl.h, and softmax of whole rows in two passes or three.
// The rules are those of kernels/reference/schedules.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention_kernels.h"
#include "step.h"

namespace twofold {

// Keys of a block that passes by all queries, at most: what is widened lies in the second-level cache.
constexpr int kMostBlockKeys = kPartition;

// Floats of scratch that one member needs for a sequence of `queries`.
size_t keys_outside_scratch(int k_dim, int v_dim, int queries);

struct ScheduleKernels {
  // One head of a sequence: blocks of `key_block` keys outside, of `query_block` queries inside.
  void (*keys_outside)(const AttentionArgs& args, const Sequence& s, const int32_t* blocks, int head, int key_block,
                       int query_block, float* scratch);
  // The states of an item's rows after partitions first … last - 1, to item.partial.
  void (*stretch)(const AttentionArgs& args, const AttentionItem& item, float* scratch);
  // y = softmax(x) of `count` numbers.
  void (*softmax_three_passes)(const float* x, float* y, long count);
  void (*softmax_two_passes)(const float* x, float* y, long count);
};

}  // namespace twofold
