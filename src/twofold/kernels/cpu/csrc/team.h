// A team of threads that run the ops of a step together, in lockstep.
//
// `run` wakes the team once; every member calls the same function and meets the others at `barrier()` between ops.
// Waiting pauses the core for some microseconds, then yields it to whoever wants it (a peer that lost its core, another
// process), and a team without work parks in the kernel: a step costs no system call per op, and an idle engine costs
// no processor time.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>

namespace twofold {

class Team {
 public:
  // Starts size - 1 threads; throws std::system_error where the system refuses them.
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Every member (the caller is member 0) calls work(member); returns when all have. `work` puts whatever may throw into
  // `attempt`, and passes the same number of barriers on every member. Rethrows the first error that `attempt` caught.
  // One caller at a time. After a fork the child has none of the threads; they are started anew by its first `run`.
  void run(const std::function<void(int member)>& work);

  // Inside `run`: calls part() and keeps what it throws for the caller of `run`; the member goes on to the next barrier
  // like the others, so that nobody is left waiting. Parts are numbered in the order of the barriers between them: all
  // members run the part in which one fails, and all leave out the parts after it.
  template <typename Part>
  void attempt(long number, const Part& part) {
    if (failed_.load(std::memory_order_relaxed) < number) return;
    try {
      part();
    } catch (...) {
      fail(number, std::current_exception());
    }
  }

  // Inside `run`: waits for all members.
  void barrier();

 private:
  struct Crew;  // the threads and what they wait on: what a fork leaves behind

  void fail(long number, std::exception_ptr error);

  const int size_;
  std::unique_ptr<Crew> crew_;
  static constexpr long kNone = std::numeric_limits<long>::max();
  std::atomic<long> failed_{kNone};  // the part that failed
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// The part [first, last) of `count` items that falls to `member` of `size`, in whole units of `grain` items.
struct Share {
  long first, last;
};
inline Share share(long count, int member, int size, long grain = 1) {
  const long units = (count + grain - 1) / grain;
  const long first = units * member / size * grain;
  const long last = units * (member + 1) / size * grain;
  return {first < count ? first : count, last < count ? last : count};
}

}  // namespace twofold
