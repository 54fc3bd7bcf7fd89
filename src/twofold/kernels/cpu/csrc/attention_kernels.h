// Attention over the paged cache and writing to it: arguments and the functions of each instruction set.
//
// A block holds `block_size` entries of every KV head. Keys are stored transposed, [blocks, kv_heads, width,
// block_size], so that a lane is a key; values row by row, [blocks, kv_heads, block_size, width]. Scales and minima lie
// the same way with one element per group.
#pragma once

#include <cstddef>
#include <cstdint>

namespace twofold {

enum class CacheFormat : int {
  f32,
  f16,
  int8,  // x = code * scale, one fp16 scale per entry and head
  int4,  // x = code * scale + minimum, fp16 each per group of kCodeGroup elements; the last group may be shorter.
         // Byte j of a group of n elements holds element j in its low half and element j + n/2 in its high half.
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

struct PagedCache {
  CacheFormat format;
  int kv_heads;
  int block_size;  // a multiple of 16
  CacheSide k, v;
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

// q [tokens, heads, dim] with `q_stride` floats between tokens; out [tokens, heads * v.dim] contiguous.
struct AttentionArgs {
  PagedCache cache;
  const float* q;
  long q_stride;
  float* out;
  int heads;
  float scale;
  float softcap;  // 0: none
  int window;     // 0: none
};

// Rows of one KV head: `queries` tokens from `token` on, the first of which stands at entry `position`, times the
// heads of the group; over partitions first … last - 1. With `partial`, there is one partition and its states
// go there instead of to the output.
struct AttentionItem {
  int kv_head;
  int token, queries, position;
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
  // Computes an item.
  void (*attend)(const AttentionArgs& args, const AttentionItem& item, float* scratch);
  // Merges `count` states that lie `distance` floats apart, in order, and writes the row's output.
  void (*combine)(const float* states, long distance, int count, int dim, float* out);
};

}  // namespace twofold
