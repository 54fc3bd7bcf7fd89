// Memory for the intermediate results of a recorded step.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

namespace twofold {

// Hands out blocks that are 64-byte aligned. A block that is given back serves a later `take`: instructions run in
// stream order, so what an op wrote may be overwritten once nothing submitted later reads it. Shared by the arena and
// its blocks; its memory is freed when all of them are gone, in whatever order. Any thread may call.
class ArenaPool {
 public:
  ArenaPool() = default;
  ~ArenaPool();
  ArenaPool(const ArenaPool&) = delete;
  ArenaPool& operator=(const ArenaPool&) = delete;

  // A block of at least `nbytes`; its size is what `give_back` wants.
  struct Block {
    void* data;
    size_t size;
  };
  Block take(size_t nbytes);
  void give_back(Block block) noexcept;

  // Bytes held, in use or not.
  size_t nbytes() const;

 private:
  mutable std::mutex mutex_;
  std::multimap<size_t, void*> free_;
  size_t held_ = 0;
};

}  // namespace twofold
