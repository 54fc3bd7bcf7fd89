// Ops as data: what a step does, recorded once and replayed in one call.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "team.h"
#include "work.h"

namespace twofold {

// One op: its phases run one after the other, each by all members of the team, with a barrier after each.
// A phase reads its pointers when it runs, so that buffers may be refilled between replays. What it throws reaches the
// caller; the phases after it are then left out.
struct Instruction {
  using Phase = std::function<void(int member, int members)>;
  std::string name;
  std::vector<Phase> phases;
};

using Recording = std::vector<Instruction>;

// Runs instructions as they are submitted and, while recording, also keeps them. Callers on several threads take turns.
class Stream {
 public:
  explicit Stream(int threads) : team_(threads) {}

  int threads() const { return team_.size(); }

  // Memory that an instruction may use while it runs: at least `bytes` from now on. Its address may change whenever an
  // op is submitted, so that a phase asks for it when it runs.
  void reserve(size_t bytes) {
    std::lock_guard<std::mutex> turn(turn_);
    scratch_.reserve(bytes);
  }
  uint8_t* scratch() const { return scratch_.data(); }

  // Runs `instruction` now; keeps it while recording.
  void submit(Instruction instruction) {
    std::lock_guard<std::mutex> turn(turn_);
    run(&instruction, &instruction + 1);
    if (recording_) recording_->push_back(std::move(instruction));
  }

  // From now on, what is submitted is also kept in `recording`.
  void begin(std::shared_ptr<Recording> recording) {
    std::lock_guard<std::mutex> turn(turn_);
    if (recording_ && recording_ != recording) throw std::runtime_error("the stream is recording another program");
    recording_ = std::move(recording);
  }

  // Stops recording into `recording`; nothing where that is not being recorded.
  void end(const std::shared_ptr<Recording>& recording) {
    std::lock_guard<std::mutex> turn(turn_);
    if (recording_ == recording) recording_ = nullptr;
  }

  // Replays instructions [first, last) in one go.
  void replay(const Recording& recording, size_t first, size_t last) {
    std::lock_guard<std::mutex> turn(turn_);
    if (first > last || last > recording.size()) throw std::out_of_range("no such instructions");
    run(recording.data() + first, recording.data() + last);
  }

  // The same; returns the seconds of each instruction, from when the team turns to it until it turns to the next.
  std::vector<double> replay_timed(const Recording& recording, size_t first, size_t last) {
    std::lock_guard<std::mutex> turn(turn_);
    if (first > last || last > recording.size()) throw std::out_of_range("no such instructions");
    std::vector<Clock::time_point> starts(last - first + 1);
    run(recording.data() + first, recording.data() + last, starts.data());
    starts.back() = Clock::now();
    std::vector<double> seconds;
    for (size_t i = 0; i + 1 < starts.size(); ++i)
      seconds.push_back(std::chrono::duration<double>(starts[i + 1] - starts[i]).count());
    return seconds;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void run(const Instruction* first, const Instruction* last, Clock::time_point* starts = nullptr) {
    const int members = team_.size();
    team_.run([&](int member) {
      long number = 0;
      for (const Instruction* it = first; it != last; ++it) {
        if (number > 0) team_.barrier();
        if (starts != nullptr && member == 0) starts[it - first] = Clock::now();
        bool inside = false;
        for (const auto& phase : it->phases) {
          if (inside) team_.barrier();
          inside = true;
          team_.attempt(number++, [&] { phase(member, members); });
        }
      }
    });
  }

  Team team_;
  std::mutex turn_;
  Scratch scratch_;
  std::shared_ptr<Recording> recording_;
};

}  // namespace twofold
