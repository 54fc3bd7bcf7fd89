// Attention by Hamming distance: keys and queries are signs packed into bits, values stay numbers in float16.
//
// A block holds the codes of its entries head by head, [blocks, kv_heads, block_size, dim / 8] bytes, the sign of
// element d in bit d % 8 of byte d / 8 (set: not negative), and their values, [blocks, kv_heads, block_size, v_dim].
// A query attends to the entries of each of its heads that differ from it in the fewest bits, the newer one of equals,
// and to no others: only their values are read.
#pragma once

#include <cstdint>

#include "step.h"

namespace twofold {

struct HammingCache {
  uint8_t* codes;
  uint16_t* values;
  int kv_heads, block_size, dim, v_dim;
};

// How the vectors of some heads become signs: those of x . map - threshold. map: [heads][dim][dim] or null, of which
// row i is what element i adds to; threshold: [heads][dim] or null.
struct HammingSigns {
  const float* map;
  const float* threshold;
};

struct HammingWriteArgs {
  HammingCache cache;
  HammingSigns signs;
  const float* k;
  long k_stride;
  const float* v;
  long v_stride;
  const int64_t* slots;
};

// A query that sees `v` entries keeps max(n, n * v / context) of them. scale: by head, of (dim - 2 * distance).
struct HammingArgs {
  HammingCache cache;
  HammingSigns signs;
  const float* scale;
  const float* q;
  long q_stride;
  float* out;
  int heads;
  float softcap;  // 0: none
  int window;     // 0: none
  int n, context;
};

struct HammingKernels {
  // Stores (token, head) pairs first … last - 1, token by token.
  void (*write)(const HammingWriteArgs& args, long first, long last);
  // The output of head `head` of new token `token`, which stands at entry `position`.
  void (*attend)(const HammingArgs& args, const int32_t* blocks, long token, int position, int head);
};

}  // namespace twofold
