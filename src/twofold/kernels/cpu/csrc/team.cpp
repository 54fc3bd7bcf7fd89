#include "team.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <thread>
#include <utility>
#include <vector>

#include "pause.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace twofold {

namespace {

using Clock = std::chrono::steady_clock;

// Ops last microseconds, so a peer is usually this close behind. Longer, and it has a longer part or lost its core.
constexpr auto kPause = std::chrono::microseconds(20);
// The next step follows within a millisecond or so while the engine decodes; waking a parked thread takes up to 100 µs.
constexpr auto kIdle = std::chrono::milliseconds(2);

// Processors that this process may run on.
int processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

// Returns when `done()`, or false when `limit` has passed. Measured in time, not in turns: a pause takes 10 to 140 cycles.
template <typename Done>
bool wait_until(const Done& done, bool may_pause, Clock::duration limit) {
  for (int turn = 0; turn < 32; ++turn) {
    if (done()) return true;
    if (may_pause) pause();
  }
  const auto start = Clock::now();
  while (!done()) {
    const auto waited = Clock::now() - start;
    if (waited > limit) return false;
    if (may_pause && waited < kPause) {
      for (int turn = 0; turn < 8 && !done(); ++turn) pause();
    } else {
      std::this_thread::yield();
    }
  }
  return true;
}

// Counts the forks between the first team's process and this one.
std::atomic<unsigned> forks{0};
void count_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
  (void)registered;
}

}  // namespace

struct Team::Crew {
  explicit Crew(int size) : size(size), may_pause(size <= processors()), fork(forks.load()) {
    try {
      for (int member = 1; member < size; ++member) threads.emplace_back([this, member] { serve(member); });
    } catch (...) {
      dismiss();
      throw;
    }
  }
  ~Crew() { dismiss(); }

  void dismiss() {
    stop.store(true);
    start();
    for (auto& thread : threads) thread.join();
    threads.clear();
  }

  // Lets the threads into a new round. Either this sees that a thread has parked, or that thread sees the new round
  // before it sleeps: both sides write before they read, in one total order.
  void start() {
    round.fetch_add(1, std::memory_order_seq_cst);
    if (parked.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(mutex);
      wake.notify_all();
    }
  }

  void serve(int member) noexcept {
    unsigned seen = 0;
    for (;;) {
      const auto called = [&] { return round.load(std::memory_order_acquire) != seen; };
      if (!wait_until(called, may_pause, kIdle)) {
        std::unique_lock<std::mutex> lock(mutex);
        parked.fetch_add(1, std::memory_order_seq_cst);
        wake.wait(lock, [&] { return round.load(std::memory_order_seq_cst) != seen; });
        parked.fetch_sub(1, std::memory_order_relaxed);
      }
      ++seen;  // rounds cannot be missed: the next one starts after this one's last barrier
      if (stop.load(std::memory_order_relaxed)) return;
      (*work)(member);
      barrier();
    }
  }

  void barrier() {
    const unsigned current = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
      arrived.store(0, std::memory_order_relaxed);
      phase.store(current + 1, std::memory_order_release);
      return;
    }
    wait_until([&] { return phase.load(std::memory_order_acquire) != current; }, may_pause, Clock::duration::max());
  }

  const int size;
  const bool may_pause;  // with more members than processors, pausing keeps the peer from running
  const unsigned fork;
  std::vector<std::thread> threads;
  const std::function<void(int)>* work = nullptr;
  // On cache lines of their own: members poll `round` and `phase` while others write the rest.
  alignas(64) std::atomic<unsigned> round{0};
  alignas(64) std::atomic<unsigned> phase{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> parked{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
};

Team::Team(int size) : size_(size < 1 ? 1 : size) {
  count_forks();
  crew_ = std::make_unique<Crew>(size_);
}

Team::~Team() {
  if (crew_ && crew_->fork != forks.load()) (void)crew_.release();  // the threads are the parent's, as in `run`
}

void Team::run(const std::function<void(int)>& work) {
  if (!crew_ || crew_->fork != forks.load(std::memory_order_relaxed)) {
    (void)crew_.release();  // its locks may be held by threads that do not exist here, so it is left where it lies
    crew_ = std::make_unique<Crew>(size_);
  }
  if (size_ == 1) {
    work(0);
  } else {
    crew_->work = &work;
    crew_->start();
    work(0);
    crew_->barrier();  // nobody leaves before all are done with `work`
  }
  if (failed_.load(std::memory_order_relaxed) != kNone) {
    failed_.store(kNone, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

void Team::barrier() {
  if (size_ > 1) crew_->barrier();
}

void Team::fail(long number, std::exception_ptr error) {
  std::lock_guard<std::mutex> lock(error_mutex_);
  if (error_) return;  // of the same part: parts after a failure are left out
  error_ = std::move(error);
  failed_.store(number, std::memory_order_relaxed);
}

}  // namespace twofold
