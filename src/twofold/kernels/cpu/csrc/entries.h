// Moving cache entries to other slots.
#pragma once

#include "stream.h"

namespace twofold {

// What entries of one tensor look like: [blocks, block_size, heads, width] with the given distances between
// neighbours, in elements of `item` bytes (1, 2 or 4).
struct EntryView {
  uint8_t* data;
  int item;
  long block_size, heads, width;
  long block_stride, slot_stride, head_stride, element_stride;
};

// Entry target[i] of every head becomes what entry source[i] (per_head: source[i * heads + head]) was, for i = 0 …
// count - 1. Slots ascend along a sequence, and none is a target before it is a source no more: i-th targets lie at or
// before i-th sources.
Instruction move_entries(const EntryView& view, const int64_t* source, bool per_head, const int64_t* target, long count);

}  // namespace twofold
