// Exact attention schedules and softmax, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <stdexcept>
#include <utility>

#include "bind.h"
#include "kernels.h"
#include "schedule.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using Address = uintptr_t;

AttentionArgs args_of(const PagedCache& cache, const Spans& spans, Address q, long q_stride, Address out, int heads,
                      float scale, float softcap) {
  if (spans.block_size != cache.block_size) throw std::invalid_argument("spans and cache differ in block size");
  if (heads % cache.kv_heads != 0 || heads / cache.kv_heads > kSmallTile)
    throw std::invalid_argument("heads must be a multiple of the KV heads, at most 32 times as many");
  if (cache.format == CacheFormat::grouped) throw std::invalid_argument("a grouped cache has no such schedule");
  return {cache, pointer<const float>(q), q_stride, pointer<float>(out), heads, scale, softcap, 0};
}

void keys_outside(Stream& stream, const PagedCache& cache, std::shared_ptr<Spans> spans, Address q, long q_stride,
                  Address out, int heads, float scale, float softcap, int key_block, int query_block) {
  if (key_block < 16 || key_block % 16 != 0 || key_block > kMostBlockKeys || query_block < 1 || query_block > kTileRows)
    throw std::invalid_argument("a block has a multiple of 16 keys up to 256, and up to 128 queries");
  const AttentionArgs args = args_of(cache, *spans, q, q_stride, out, heads, scale, softcap);
  nb::gil_scoped_release release;
  submit_keys_outside(stream, args, std::move(spans), key_block, query_block);
}

void lean_attention(Stream& stream, const PagedCache& cache, std::shared_ptr<Spans> spans, Address q, long q_stride,
                    Address out, int heads, float scale, float softcap, int tile, int workers) {
  if (tile < kPartition || tile % kPartition != 0 || workers < 1)
    throw std::invalid_argument("a tile has a multiple of 256 keys, and there is at least one worker");
  const AttentionArgs args = args_of(cache, *spans, q, q_stride, out, heads, scale, softcap);
  nb::gil_scoped_release release;
  submit_lean_attention(stream, args, std::move(spans), tile, workers);
}

void softmax(Address x, Address y, long rows, long columns, int passes) {
  if (passes != 2 && passes != 3) throw std::invalid_argument("softmax takes 2 passes or 3");
  const auto row = passes == 2 ? kernels().schedule.softmax_two_passes : kernels().schedule.softmax_three_passes;
  for (long i = 0; i < rows; ++i) row(pointer<const float>(x) + i * columns, pointer<float>(y) + i * columns, columns);
}

}  // namespace

void bind_schedule(nb::module_& m) {
  m.def("keys_outside", &keys_outside, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"), nb::arg("q"),
        nb::arg("q_stride"), nb::arg("out"), nb::arg("heads"), nb::arg("scale"), nb::arg("softcap"),
        nb::arg("key_block"), nb::arg("query_block"),
        "An op: attention with blocks of keys outside and of queries inside, over the spans that hold when it runs.");
  m.def("lean_attention", &lean_attention, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"), nb::arg("q"),
        nb::arg("q_stride"), nb::arg("out"), nb::arg("heads"), nb::arg("scale"), nb::arg("softcap"), nb::arg("tile"),
        nb::arg("workers"),
        "An op: attention whose tiles of keys of all sequences of one query are dealt out evenly to workers.");
  m.def("softmax", &softmax, nb::arg("x"), nb::arg("y"), nb::arg("rows"), nb::arg("columns"), nb::arg("passes"),
        nb::call_guard<nb::gil_scoped_release>(),
        "y = softmax of each row of x [rows, columns] float32, in 3 passes (maximum, sum, exponentials again) or 2 "
        "(exponentials as mantissa and exponent). On the calling thread.");
}

}  // namespace twofold
