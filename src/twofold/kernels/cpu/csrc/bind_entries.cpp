// Moving cache entries and scoring them, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "bind.h"
#include "entries.h"
#include "observe.h"

namespace nb = nanobind;

namespace twofold {

void bind_entries(nb::module_& m) {
  m.def("move_entries", [](const std::shared_ptr<Stream>& stream, uintptr_t data, int item, long block_size, long heads,
                           long width, long block_stride, long slot_stride, long head_stride, long element_stride,
                           uintptr_t source, bool per_head, uintptr_t target, long count) {
    const EntryView view{pointer<uint8_t>(data), item,        block_size,  heads,         width,
                         block_stride,           slot_stride, head_stride, element_stride};
    stream->submit(move_entries(view, pointer<const int64_t>(source), per_head, pointer<const int64_t>(target), count));
  }, nb::arg("stream"), nb::arg("data"), nb::arg("item"), nb::arg("block_size"), nb::arg("heads"), nb::arg("width"),
     nb::arg("block_stride"), nb::arg("slot_stride"), nb::arg("head_stride"), nb::arg("element_stride"),
     nb::arg("source"), nb::arg("per_head"), nb::arg("target"), nb::arg("count"),
     nb::call_guard<nb::gil_scoped_release>(),
     "Entries of [blocks, block_size, heads, width] in the slots `source` [count] (per_head: [count, heads]) to the "
     "slots `target` [count], each at or before its source in the order of its sequence.");
  m.def("observe", [](const std::shared_ptr<Stream>& stream, const PagedCache& cache, std::shared_ptr<Spans> spans,
                      const std::vector<std::tuple<int, int, bool>>& watched, uintptr_t q, long q_stride, int heads,
                      float scale, float softcap, uintptr_t scores) {
    if (spans->block_size != cache.block_size) throw std::invalid_argument("spans and cache differ in block size");
    if (cache.format == CacheFormat::grouped) throw std::invalid_argument("entries of a grouped cache have no scores");
    if (heads % cache.kv_heads != 0 || heads / cache.kv_heads > kSmallTile)
      throw std::invalid_argument("too many query heads share a KV head");
    if (watched.size() != spans->sequences.size())
      throw std::invalid_argument("watched must have one element per sequence");
    std::vector<Watched> each;
    for (size_t i = 0; i < watched.size(); ++i) {
      const auto [first, last, begins] = watched[i];
      if (last > spans->sequences[i].queries) throw std::invalid_argument("more tokens are watched than are new");
      each.push_back({first, last, begins});
    }
    ObserveArgs args{};
    args.attention.cache = cache;
    args.attention.q = pointer<const float>(q);
    args.attention.q_stride = q_stride;
    args.attention.heads = heads;
    args.attention.scale = scale;
    args.attention.softcap = softcap;
    args.scores = pointer<float>(scores);
    submit_observe(*stream, args, std::move(spans), std::move(each));
  }, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"), nb::arg("watched"), nb::arg("q"), nb::arg("q_stride"),
     nb::arg("heads"), nb::arg("scale"), nb::arg("softcap"), nb::arg("scores"),
     nb::call_guard<nb::gil_scoped_release>(),
     "Adds to scores [blocks, block_size, KV heads] the attention that entries get from the watched new tokens of each "
     "sequence (first, behind the last, whether all of its scores start at zero; (0, -1, False): left alone).");
}

}  // namespace twofold
