// Items of work that members of a team take as they become free, and memory that the ops of a stream share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace twofold {

// Hands out [first, last) until `count` items are gone; ready for the next run once every member has come back empty.
class WorkQueue {
 public:
  // Calls body(first, last) for runs of at most `grain` items.
  template <class Body>
  void each(long count, long grain, int members, const Body& body) {
    const Leave leave{this, members};
    for (;;) {
      const long first = next_.fetch_add(grain, std::memory_order_relaxed);
      if (first >= count) break;
      body(first, first + grain < count ? first + grain : count);
    }
  }

 private:
  struct Leave {  // a destructor, so that a body that throws leaves the queue fit for the next run
    WorkQueue* queue;
    int members;
    ~Leave() {
      if (queue->finished_.fetch_add(1, std::memory_order_acq_rel) != members - 1) return;
      queue->next_.store(0, std::memory_order_relaxed);
      queue->finished_.store(0, std::memory_order_release);
    }
  };

  std::atomic<long> next_{0};
  std::atomic<int> finished_{0};
};

// Memory for what an op needs only while it runs. Ops of a stream run one after the other, so they share it; it grows
// when an op is submitted and its address is asked for when the op runs.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  void reserve(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes <= bytes_) return;
    std::free(data_);
    bytes_ = 0;
    data_ = static_cast<uint8_t*>(std::aligned_alloc(64, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
    bytes_ = bytes;
  }
  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace twofold
