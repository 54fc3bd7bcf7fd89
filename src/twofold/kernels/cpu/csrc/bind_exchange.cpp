// Collectives among processes of one machine, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "bind.h"
#include "exchange.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

constexpr long kGrain = 1024;  // floats that a member gets at least

// x, of `count` floats, becomes the sum over all ranks, added in the order of ranks on each of them.
void all_reduce(Stream& stream, const std::shared_ptr<Exchange>& exchange, uintptr_t x, long count) {
  Instruction instruction{"all_reduce", {}};
  for (long start = 0; start < count; start += exchange->slot()) {
    const long part = std::min(exchange->slot(), count - start);
    float* const values = pointer<float>(x) + start;
    Exchange::add(
        exchange, instruction,
        [=](float* slot, int member, int members) {
          const Share mine = share(part, member, members, kGrain);
          if (mine.first < mine.last)
            std::memcpy(slot + mine.first, values + mine.first, sizeof(float) * (mine.last - mine.first));
        },
        [=](const std::vector<const float*>& slots, int member, int members) {
          const Share mine = share(part, member, members, kGrain);
          for (size_t rank = 0; rank < slots.size(); ++rank) {
            const float* const other = slots[rank];
            if (rank == 0) {
              for (long i = mine.first; i < mine.last; ++i) values[i] = other[i];
            } else {
              for (long i = mine.first; i < mine.last; ++i) values[i] += other[i];
            }
          }
        });
  }
  stream.submit(std::move(instruction));
}

// y [rows, sum of widths]: the [rows, width] of every rank, side by side; x is this rank's.
void all_gather(Stream& stream, const std::shared_ptr<Exchange>& exchange, uintptr_t x, long rows,
                const std::vector<long>& widths, long width, uintptr_t y) {
  const long widest = *std::max_element(widths.begin(), widths.end());
  if (static_cast<int>(widths.size()) != exchange->world() || widest > exchange->slot())
    throw std::invalid_argument("a width for each rank is needed, and a row must fit into a slot");
  const long total = std::accumulate(widths.begin(), widths.end(), 0L), step = exchange->slot() / widest;
  Instruction instruction{"all_gather", {}};
  for (long start = 0; start < rows; start += step) {
    const long count = std::min(step, rows - start);
    const float* const from = pointer<const float>(x) + start * width;
    float* const to = pointer<float>(y) + start * total;
    Exchange::add(
        exchange, instruction,
        [=](float* slot, int member, int members) {
          const Share mine = share(count * width, member, members, kGrain);
          if (mine.first < mine.last)
            std::memcpy(slot + mine.first, from + mine.first, sizeof(float) * (mine.last - mine.first));
        },
        [=](const std::vector<const float*>& slots, int member, int members) {
          long column = 0;
          for (size_t rank = 0; rank < slots.size(); column += widths[rank++]) {
            const Share mine = share(widths[rank], member, members, kGrain);
            if (mine.first >= mine.last) continue;
            for (long row = 0; row < count; ++row)
              std::memcpy(to + row * total + column + mine.first, slots[rank] + row * widths[rank] + mine.first,
                          sizeof(float) * (mine.last - mine.first));
          }
        });
  }
  stream.submit(std::move(instruction));
}

}  // namespace

void bind_exchange(nb::module_& m) {
  nb::class_<Exchange>(m, "Exchange", "Where the ranks of one machine exchange messages: memory that all of them map.")
      .def(
          "__init__",
          [](Exchange* self, uintptr_t memory, int rank, const std::vector<int>& processes, long slot) {
            new (self) Exchange(pointer<void>(memory), rank, {processes.begin(), processes.end()}, slot);
          },
          nb::arg("memory"), nb::arg("rank"), nb::arg("processes"), nb::arg("slot"),
          "`memory` holds `nbytes(world, slot)` bytes, zero before the first rank comes; processes: id of each rank's; "
          "slot: floats of a message that are exchanged at once.")
      .def_static("nbytes", &Exchange::nbytes, nb::arg("world"), nb::arg("slot"), "Bytes of the shared memory.");
  m.def("all_reduce", &all_reduce, nb::arg("stream"), nb::arg("exchange"), nb::arg("x"), nb::arg("count"), ReleaseGil(),
        "An op: x becomes the sum over all ranks. RuntimeError where one of them ends.");
  m.def("all_gather", &all_gather, nb::arg("stream"), nb::arg("exchange"), nb::arg("x"), nb::arg("rows"),
        nb::arg("widths"), nb::arg("width"), nb::arg("y"), ReleaseGil(),
        "An op: y [rows, sum of widths] is every rank's x [rows, width] side by side.");
}

}  // namespace twofold
