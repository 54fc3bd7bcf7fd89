// Items of work that members of a team take as they become free, and memory that the ops of a stream share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "team.h"

namespace twofold {

// Items that every member has a share of. A member first takes what is its own, so that it meets the same data in every
// step and finds in its own cache what fits there, and then what others have left. Ready for the next run once every
// member has come back empty.
class WorkQueue {
 public:
  explicit WorkQueue(int members) : members_(members), taken_(new Counter[members]) {}

  // Calls body(first, last) for runs of at most `grain` of the items [0, count).
  template <class Body>
  void each(long count, long grain, int member, const Body& body) {
    const Leave leave{this};
    for (int turn = 0; turn < members_; ++turn) {
      const int owner = (member + turn) % members_;
      const Share part = share(count, owner, members_, grain);
      std::atomic<long>& taken = taken_[owner].items;
      while (taken.load(std::memory_order_relaxed) < part.last - part.first) {
        const long first = part.first + taken.fetch_add(grain, std::memory_order_relaxed);
        if (first >= part.last) break;
        body(first, first + grain < part.last ? first + grain : part.last);
      }
    }
  }

 private:
  struct alignas(64) Counter {
    std::atomic<long> items{0};
  };
  struct Leave {  // a destructor, so that a body that throws leaves the queue fit for the next run
    WorkQueue* queue;
    ~Leave() {
      if (queue->finished_.fetch_add(1, std::memory_order_acq_rel) != queue->members_ - 1) return;
      for (int i = 0; i < queue->members_; ++i) queue->taken_[i].items.store(0, std::memory_order_relaxed);
      queue->finished_.store(0, std::memory_order_release);
    }
  };

  const int members_;
  const std::unique_ptr<Counter[]> taken_;
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
