// Scores of cache entries: the attention that some queries of a step give each of them, added up.
#pragma once

#include "attention_kernels.h"

namespace twofold {

// attention: queries and cache (its output is not used, a window is none); scores [blocks, block_size, kv_heads].
struct ObserveArgs {
  AttentionArgs attention;
  float* scores;
};

// Floats of scratch that one member needs where the longest sequence has `keys` entries.
size_t observe_scratch(int k_dim, int keys);

struct ObserveKernels {
  // Adds the attention of the item's queries, over the heads of its group, to the scores of the entries they see.
  void (*observe)(const ObserveArgs& args, const AttentionItem& item, float* scratch);
};

}  // namespace twofold
