// Streams, the programs recorded from them, and the arena that a program's intermediate results live in.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <cstring>

#include "arena.h"
#include "bind.h"
#include "stream.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

// What a stream was given while it recorded this program, to be replayed.
class Program {
 public:
  explicit Program(std::shared_ptr<Stream> stream)
      : stream_(std::move(stream)), recording_(std::make_shared<Recording>()) {}
  ~Program() { stream_->end(recording_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void record() { stream_->begin(recording_); }
  void end() { stream_->end(recording_); }
  size_t size() const { return recording_->size(); }
  void run(size_t first, size_t last) { stream_->replay(*recording_, first, last); }
  void run_all() { run(0, size()); }
  std::vector<double> run_timed(size_t first, size_t last) { return stream_->replay_timed(*recording_, first, last); }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& instruction : *recording_) names.push_back(instruction.name);
    return names;
  }

 private:
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<Recording> recording_;
};

using Floats = nb::ndarray<nb::pytorch, float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A tensor over a block of the arena, which goes back when the last view of it is gone.
Floats take(const std::shared_ptr<ArenaPool>& pool, size_t nbytes) {
  if (nbytes % sizeof(float) != 0) throw std::invalid_argument("an arena's buffers hold whole floats of 4 bytes");
  struct Owner {
    std::shared_ptr<ArenaPool> pool;
    ArenaPool::Block block;
  };
  auto owner = std::make_unique<Owner>(Owner{pool, pool->take(nbytes)});
  const nb::capsule capsule(owner.get(), [](void* p) noexcept {
    const std::unique_ptr<Owner> owner(static_cast<Owner*>(p));
    owner->pool->give_back(owner->block);
  });
  const auto* held = owner.release();  // the capsule's from here on
  return Floats(held->block.data, {nbytes / sizeof(float)}, capsule);
}

// Copies bytes; source and destination do not overlap.
void copy(Stream& stream, uintptr_t destination, uintptr_t source, long nbytes) {
  char* const to = pointer<char>(destination);
  const char* const from = pointer<const char>(source);
  stream.submit({"copy", {[=](int member, int members) {
                   const Share part = share(nbytes, member, members, 64);
                   if (part.first < part.last) std::memcpy(to + part.first, from + part.first, part.last - part.first);
                 }}});
}

// Every member counts its phases, and in each looks at the others' counts: lockstep means that they are in this phase or
// done with it, and never ahead of that.
void self_test(Stream& stream, long phases, int failing) {
  const auto counts = std::make_shared<std::vector<std::atomic<long>>>(stream.threads());
  Instruction test{"self_test", {}};
  test.phases.emplace_back([counts](int member, int) { (*counts)[member].store(0, std::memory_order_relaxed); });
  for (long phase = 0; phase < phases; ++phase)
    test.phases.emplace_back([=](int member, int) {
      if (member == failing && phase == phases / 2)
        throw std::runtime_error("member " + std::to_string(member) + " failed, as asked");
      for (const auto& count : *counts) {
        const long seen = count.load(std::memory_order_relaxed);
        if (seen != phase && seen != phase + 1)
          throw std::logic_error("a member was in phase " + std::to_string(seen) + " instead of " + std::to_string(phase));
      }
      (*counts)[member].fetch_add(1, std::memory_order_relaxed);
    });
  stream.submit(std::move(test));
}

}  // namespace

void bind_stream(nb::module_& m) {
  nb::class_<Stream>(m, "Stream", "Runs native ops in order on a team of threads of its own (the caller is one of them).")
      .def(nb::init<int>(), nb::arg("threads"))
      .def_prop_ro("threads", &Stream::threads);

  nb::class_<Program>(m, "Program", "Ops recorded from a stream, to be replayed without the interpreter.")
      .def(nb::init<std::shared_ptr<Stream>>(), nb::arg("stream"))
      .def("record", &Program::record, ReleaseGil(), "Keeps every op that the stream runs from now on, after those kept.")
      .def("end", &Program::end, ReleaseGil(), "Stops recording; harmless where nothing is recorded.")
      .def("__len__", &Program::size)
      .def("names", &Program::names, "The name of each instruction.")
      .def("run", &Program::run_all, ReleaseGil(), "Replays all instructions.")
      .def("run", &Program::run, nb::arg("first"), nb::arg("last"), ReleaseGil(),
           "Replays instructions first … last - 1. IndexError where there are not as many.")
      .def("run_timed", &Program::run_timed, nb::arg("first"), nb::arg("last"), ReleaseGil(),
           "The same; returns the seconds that each took.");

  // Held by shared_ptr on the C++ side, because the blocks that are in use outlive the Python object.
  struct Arena {
    std::shared_ptr<ArenaPool> pool = std::make_shared<ArenaPool>();
  };
  nb::class_<Arena>(m, "Arena", "Buffers for a recording: one whose last view is gone serves a later op.")
      .def(nb::init<>())
      .def(
          "take", [](const Arena& self, size_t nbytes) { return take(self.pool, nbytes); }, nb::arg("nbytes"),
          "An uninitialised torch tensor [nbytes / 4] of float32, 64-byte aligned. ValueError for a part of a float.")
      .def_prop_ro(
          "nbytes", [](const Arena& self) { return self.pool->nbytes(); }, "Bytes held, whether in use or not.");

  m.def("copy", &copy, nb::arg("stream"), nb::arg("destination"), nb::arg("source"), nb::arg("nbytes"), ReleaseGil(),
        "An op: copies bytes between addresses that do not overlap.");
  m.def("self_test", &self_test, nb::arg("stream"), nb::arg("phases"), nb::arg("failing") = -1, ReleaseGil(),
        "An op of `phases` phases in which the members check that they are in lockstep; RuntimeError where they are "
        "not, or where member `failing` throws half-way.");
}

}  // namespace twofold
