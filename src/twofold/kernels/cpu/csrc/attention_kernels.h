// Attention over the paged cache and writing to it: arguments and the functions of each instruction set.
//
// A block holds `block_size` entries of every KV head. Keys are stored transposed, [blocks, kv_heads, width,
// block_size], so that a lane is a key; values row by row, [blocks, kv_heads, block_size, width]. Scales and minima lie
// the same way with one element per group.
#pragma once

#include <cstddef>
#include <cstdint>

#include "step.h"

namespace twofold {

enum class CacheFormat : int {
  f32,
  f16,
  int8,  // x = code * scale, one fp16 scale per entry and head
  int4,  // x = code * scale + minimum, fp16 each per group of kCodeGroup elements; the last group may be shorter.
         // Byte j of a group of n elements holds element j in its low half and element j + n/2 in its high half.
  grouped,  // old entries in groups of codes, new ones in float32 by sequence: see Grouped and attention_grouped.h
};

constexpr int kCodeGroup = 32;
constexpr int kMaxHeadDim = 512;
constexpr int kTileRows = 128;  // (query, head) rows that are handled together in prefill
constexpr int kSmallTile = 32;  // ... where there are few of them, or the context is split

struct CacheSide {
  void* codes;
  uint16_t* scale;
  uint16_t* minimum;
  int dim;
};

// What a grouped cache has beside its codes. bits: of a code; group: tokens of one channel in a group of keys;
// value_group: channels of one token in a group of values; residual: tokens of a window; drafts: of a row, at most;
// windows and drafts: float32, by row of a sequence; lengths: entries stored of each row, drafts not counted.
struct Grouped {
  int bits, group, value_group, residual, drafts;
  float *k_window, *v_window, *k_drafts, *v_drafts;
  int32_t* lengths;
};

struct PagedCache {
  CacheFormat format;
  int kv_heads;
  int block_size;  // a multiple of 16
  CacheSide k, v;
  Grouped grouped{};
};

// k, v: [tokens, kv_heads, dim] with the given distance between tokens, in floats.
struct CacheWriteArgs {
  PagedCache cache;
  const float* k;
  long k_stride;
  const float* v;
  long v_stride;
  const int64_t* slots;
};

// The same for a grouped cache, which goes by sequence.
struct GroupedWriteArgs {
  PagedCache cache;
  const float* k;
  long k_stride;
  const float* v;
  long v_stride;
};

// q [tokens, heads, dim] with `q_stride` floats between tokens; out [tokens, heads * v.dim] contiguous. k, v: the new
// entries, for a grouped cache, which stores them after attention.
struct AttentionArgs {
  PagedCache cache;
  const float* q;
  long q_stride;
  float* out;
  int heads;
  float scale;
  float softcap;  // 0: none
  int window;     // 0: none
  const float* k = nullptr;
  long k_stride = 0;
  const float* v = nullptr;
  long v_stride = 0;
  bool pair_sums = false;  // weights are mantissas and exponents, summed without a maximum: see pair_exp.h
};

// Rows of one KV head: `queries` tokens from `token` on, the first of which stands at entry `position`, times the
// heads of the group; over partitions first … last - 1. With `partial`, there is one partition and its states
// go there instead of to the output. `start`: the first new token of its sequence, which stands at entry `base`.
struct AttentionItem {
  int kv_head;
  int token, queries, position;
  int row, start, base;
  const int32_t* blocks;
  int first, last;
  float* partial;
};

// A state of a row: `dim` sums padded to 16, then the maximum and the sum of its weights, padded to 16.
inline int padded(int dim) { return (dim + 15) / 16 * 16; }
inline int state_floats(int dim) { return padded(dim) + 16; }

// Floats of scratch that one member needs.
size_t attention_scratch(int k_dim, int v_dim);

struct AttentionKernels {
  // Stores (token, head) pairs first … last - 1, token by token.
  void (*write)(const CacheWriteArgs& args, long first, long last);
  // Stores the new entries of a sequence's KV head, and the first `count` drafts of a row behind its `base` entries.
  void (*write_grouped)(const GroupedWriteArgs& args, const Sequence& sequence, const int32_t* blocks, int head);
  void (*commit_drafts)(const PagedCache& cache, int row, const int32_t* blocks, int base, int count);
  // Computes an item.
  void (*attend)(const AttentionArgs& args, const AttentionItem& item, float* scratch);
  // Merges `count` states that lie `distance` floats apart, in order, and writes the row's output.
  void (*combine)(const float* states, long distance, int count, int dim, float* out);
};

}  // namespace twofold
