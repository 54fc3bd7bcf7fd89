#include "arena.h"

#include <new>

namespace twofold {

namespace {
constexpr std::align_val_t kAlignment{64};
void release(void* data) noexcept { ::operator delete(data, kAlignment); }
}  // namespace

ArenaPool::~ArenaPool() {
  for (const auto& entry : free_) release(entry.second);
}

ArenaPool::Block ArenaPool::take(size_t nbytes) {
  const size_t size = nbytes == 0 ? 64 : (nbytes + 63) / 64 * 64;
  std::lock_guard<std::mutex> lock(mutex_);
  // The smallest that fits, and none of more than twice the size: large blocks are for the large ops to come.
  const auto found = free_.lower_bound(size);
  if (found != free_.end() && found->first <= 2 * size) {
    const Block block{found->second, found->first};
    free_.erase(found);
    return block;
  }
  void* data = ::operator new(size, kAlignment);
  held_ += size;
  return {data, size};
}

void ArenaPool::give_back(Block block) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  try {
    // First of its size: what was used last is in the cache.
    free_.emplace_hint(free_.lower_bound(block.size), block.size, block.data);
  } catch (...) {  // no memory for the entry: one block less to reuse
    held_ -= block.size;
    release(block.data);
  }
}

size_t ArenaPool::nbytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

}  // namespace twofold
