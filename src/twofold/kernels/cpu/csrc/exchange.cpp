#include "exchange.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "pause.h"

namespace twofold {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kLine = 128;  // a counter has two cache lines of its own: neighbours are fetched in pairs
constexpr auto kPause = std::chrono::microseconds(50);
constexpr auto kCheck = std::chrono::milliseconds(20);
constexpr auto kPatience = std::chrono::milliseconds(500);  // beyond, a peer is loading or stopped: let others work
constexpr auto kNap = std::chrono::microseconds(200);

}  // namespace

size_t Exchange::nbytes(int world, long slot) {
  return static_cast<size_t>(world) * (kLine + 2 * static_cast<size_t>(slot) * sizeof(float));
}

Exchange::Exchange(void* memory, int rank, std::vector<pid_t> processes, long slot)
    : memory_(static_cast<char*>(memory)), rank_(rank), processes_(std::move(processes)), slot_(slot) {
  if (rank < 0 || rank >= world() || slot < 1) throw std::invalid_argument("no such rank, or no room for a message");
}

float* Exchange::message(int rank, uint64_t back) const {
  const size_t slot = 2 * static_cast<size_t>(rank) + (counted_ - back) % 2;
  return reinterpret_cast<float*>(memory_ + world() * kLine) + slot * static_cast<size_t>(slot_);
}

Exchange::Counter& Exchange::counter(int rank) const { return *reinterpret_cast<Counter*>(memory_ + rank * kLine); }

void Exchange::count() { counter(rank_).store(++counted_, std::memory_order_release); }

void Exchange::wait() const {
  for (int rank = 0; rank < world(); ++rank) {
    const auto there = [&] { return counter(rank).load(std::memory_order_acquire) >= counted_; };
    const auto start = Clock::now();
    auto checked = start;
    while (!there()) {
      const auto now = Clock::now();
      if (now - start < kPause) {
        for (int turn = 0; turn < 16 && !there(); ++turn) pause();
        continue;
      }
      if (now - checked > kCheck) {
        check(rank);
        checked = now;
      }
      if (now - start < kPatience) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(kNap);
      }
    }
  }
}

void Exchange::check(int rank) const {
  const pid_t process = processes_[rank];
  siginfo_t info{};
  // A child that has ended stays to be asked for; it answers nothing while it runs, and is no child where it is ours to
  // ask about only as a parent.
  const bool child = waitid(P_PID, process, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
  const bool ended = child ? info.si_pid == process : kill(process, 0) != 0;
  if (ended) throw std::runtime_error("rank " + std::to_string(rank) + " ended in the middle of a collective");
}

}  // namespace twofold
