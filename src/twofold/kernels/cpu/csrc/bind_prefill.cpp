// Sparse attention of prompts, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "bind.h"
#include "prefill.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using Address = uintptr_t;
using Ints = std::vector<int>;

AttentionArgs args_of(const PagedCache& cache, const Spans& spans, Address q, long q_stride, Address out, int heads,
                      float scale, float softcap) {
  if (spans.block_size != cache.block_size) throw std::invalid_argument("spans and cache differ in block size");
  if (heads % cache.kv_heads != 0) throw std::invalid_argument("heads must be a multiple of the KV heads");
  if (cache.format == CacheFormat::grouped) throw std::invalid_argument("a grouped cache has no sparse attention");
  return {cache, pointer<const float>(q), q_stride, pointer<float>(out), heads, scale, softcap, 0};
}

std::shared_ptr<PrefillIndex> prefill_index(Stream& stream, const PagedCache& cache, std::shared_ptr<Spans> spans,
                                            Address q, long q_stride, int heads, float scale, float softcap,
                                            const Ints& kinds, const Ints& vertical, const Ints& slash, int tile,
                                            int last, int first, int local) {
  const size_t count = static_cast<size_t>(heads);
  if (kinds.size() != count || vertical.size() != count || slash.size() != count)
    throw std::invalid_argument("kinds, vertical and slash have one element per head");
  if (tile < kPrefillGroup || tile % kPrefillGroup != 0 || tile > kTileRows)
    throw std::invalid_argument("tile must be a multiple of 16 up to 128");
  if (last < 1) throw std::invalid_argument("last must be at least 1");
  PrefillPlan plan{{}, tile, last, first, local};
  for (size_t i = 0; i < count; ++i) {
    if (kinds[i] < 0 || kinds[i] > 2) throw std::invalid_argument("kinds are 0, 1 or 2");
    plan.patterns.push_back({static_cast<HeadKind>(kinds[i]), vertical[i], slash[i]});
  }
  const AttentionArgs args = args_of(cache, *spans, q, q_stride, 0, heads, scale, softcap);
  nb::gil_scoped_release release;
  return make_index(stream, args, std::move(spans), std::move(plan));
}

void prefill_attention(Stream& stream, const PagedCache& cache, std::shared_ptr<Spans> spans,
                       std::shared_ptr<PrefillIndex> index, Address q, long q_stride, Address out, int heads,
                       float scale, float softcap) {
  if (index->plan.patterns.size() != static_cast<size_t>(heads))
    throw std::invalid_argument("the index is of another number of heads");
  const AttentionArgs args = args_of(cache, *spans, q, q_stride, out, heads, scale, softcap);
  nb::gil_scoped_release release;
  submit_prefill(stream, args, std::move(spans), std::move(index));
}

// Keys before `end` that a tile reads.
Ints keys_read(const PrefillIndex& index, size_t nth, size_t head, size_t tile, int end) {
  const HeadIndex& found = index.heads.at(nth).at(head);
  const int32_t* groups = found.groups.data();
  const int32_t *first = groups + (tile == 0 ? 0 : found.ends.at(tile - 1)), *last = groups + found.ends.at(tile);
  Ints keys;
  for (const int32_t* group = first; group != last; ++group)
    for (int i = 0; i < kPrefillGroup; ++i) keys.push_back(*group * kPrefillGroup + i);
  for (const int32_t column : found.columns)
    if (!std::binary_search(first, last, column / kPrefillGroup)) keys.push_back(column);
  std::sort(keys.begin(), keys.end());
  keys.erase(std::lower_bound(keys.begin(), keys.end(), end), keys.end());
  return keys;
}

}  // namespace

void bind_prefill(nb::module_& m) {
  nb::class_<PrefillIndex>(m, "PrefillIndex", "Which keys the tiles of the queries of a step read.")
      .def_ro("pairs", &PrefillIndex::pairs, "Query-key pairs over all heads.")
      .def_ro("entries", &PrefillIndex::entries, "Distinct entries read, over all KV heads.")
      .def_ro("sequences", &PrefillIndex::sequences, "Which sequences of the step are sparse.")
      .def("keys", &keys_read, nb::arg("nth"), nb::arg("head"), nb::arg("tile"), nb::arg("end"),
           "Keys before `end` that a tile of the nth sparse sequence reads, ascending.");
  m.def("prefill_index", &prefill_index, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"), nb::arg("q"),
        nb::arg("q_stride"), nb::arg("heads"), nb::arg("scale"), nb::arg("softcap"), nb::arg("kinds"),
        nb::arg("vertical"), nb::arg("slash"), nb::arg("tile"), nb::arg("last"), nb::arg("first"), nb::arg("local"),
        "The index for q [tokens, heads, dim] over the cache; kinds: 0 a-shape, 1 vertical-slash, 2 block-sparse, per "
        "head, with its columns and diagonals. It must be made outside a recording.");
  m.def("prefill_attention", &prefill_attention, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"),
        nb::arg("index"), nb::arg("q"), nb::arg("q_stride"), nb::arg("out"), nb::arg("heads"), nb::arg("scale"),
        nb::arg("softcap"),
        "An op: attends by the index, which was made for the same spans; sequences that it leaves out attend to "
        "everything.");
}

}  // namespace twofold
