// Collectives among processes of one machine, through memory that all of them map.
//
// Every rank has a counter and two slots for messages. It writes its message into one slot and counts; once all have
// counted, everybody reads all slots. The next message goes into the other slot: whoever counts again has finished
// reading the one before, so that no rank overwrites what another still reads.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "stream.h"

namespace twofold {

class Exchange {
 public:
  // Bytes of the shared memory for messages of up to `slot` floats. All zero before the first rank comes.
  static size_t nbytes(int world, long slot);

  // `processes`: the id of each rank's process. While this rank waits for a process that is its child or its parent and
  // that process ends, the wait ends with std::runtime_error.
  Exchange(void* memory, int rank, std::vector<pid_t> processes, long slot);

  int world() const { return static_cast<int>(processes_.size()); }
  long slot() const { return slot_; }

  // Adds to `instruction` the phases in which this rank's message is exchanged. write(slot, member, members) writes it,
  // read(slots, member, members) reads those of all ranks, in their order.
  template <class Write, class Read>
  static void add(const std::shared_ptr<Exchange>& exchange, Instruction& instruction, Write write, Read read) {
    instruction.phases.emplace_back(
        [=](int member, int members) { write(exchange->message(exchange->rank_), member, members); });
    instruction.phases.emplace_back([=](int member, int) {
      if (member == 0) exchange->count();
    });
    instruction.phases.emplace_back([=](int member, int members) {
      exchange->wait();
      std::vector<const float*> slots;
      for (int rank = 0; rank < exchange->world(); ++rank) slots.push_back(exchange->message(rank, 1));
      read(slots, member, members);
    });
  }

 private:
  using Counter = std::atomic<uint64_t>;
  static_assert(Counter::is_always_lock_free, "a counter is shared by processes");

  float* message(int rank, uint64_t back = 0) const;  // `back`: 0 for the next message, 1 for the one just counted
  Counter& counter(int rank) const;
  void count();
  void wait() const;
  void check(int rank) const;

  char* const memory_;
  const int rank_;
  const std::vector<pid_t> processes_;
  const long slot_;
  uint64_t counted_ = 0;
};

}  // namespace twofold
