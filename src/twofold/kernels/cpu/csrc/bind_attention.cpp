// The geometry of a step, the paged cache and attention over it, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

#include "attention.h"
#include "bind.h"
#include "kernels.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using Ints = std::vector<int>;

void set_spans(Spans& spans, const Ints& queries, const Ints& keys, nb::sequence tables, int block_size,
               const Ints& rows, const Ints& drafts) {
  const size_t count = queries.size();
  if (keys.size() != count || nb::len(tables) != count)
    throw std::invalid_argument("queries, keys and tables must have one element per sequence");
  for (const Ints* each : {&rows, &drafts})
    if (!each->empty() && each->size() != count)
      throw std::invalid_argument("rows and drafts must have one element per sequence, or none");
  if (block_size <= 0) throw std::invalid_argument("block_size must be positive");
  spans.clear(block_size);
  for (size_t i = 0; i < count; ++i) {
    const auto table = static_cast<long>(spans.blocks.size());
    for (nb::handle block : tables[i]) spans.blocks.push_back(nb::cast<int32_t>(block));
    const long room = (static_cast<long>(spans.blocks.size()) - table) * block_size;
    if (queries[i] < 1 || keys[i] < queries[i] || keys[i] > room) {
      spans.clear(block_size);
      throw std::invalid_argument("sequence " + std::to_string(i) + ": " + std::to_string(queries[i]) + " queries, " +
                                  std::to_string(keys[i]) + " keys and blocks for " + std::to_string(room));
    }
    spans.add(queries[i], keys[i], table, rows.empty() ? 0 : rows[i], drafts.empty() ? 0 : drafts[i]);
  }
  spans.fit();
}

CacheFormat format_of(const std::string& name) {
  if (name == "f32") return CacheFormat::f32;
  if (name == "f16") return CacheFormat::f16;
  if (name == "int8") return CacheFormat::int8;
  if (name == "int4") return CacheFormat::int4;
  throw std::invalid_argument("cache format '" + name + "' is none of f32, f16, int8, int4");
}

using Address = uintptr_t;

CacheSide side_of(const nb::tuple& addresses, int dim) {
  if (addresses.size() != 3) throw std::invalid_argument("give the addresses of codes, scales and minima (0: none)");
  return {pointer<void>(nb::cast<Address>(addresses[0])), pointer<uint16_t>(nb::cast<Address>(addresses[1])),
          pointer<uint16_t>(nb::cast<Address>(addresses[2])), dim};
}

PagedCache make_cache(const std::string& format, int kv_heads, int block_size, int k_dim, int v_dim, nb::tuple k,
                      nb::tuple v) {
  for (int dim : {k_dim, v_dim})
    if (dim < 8 || dim > kMaxHeadDim || dim % 8 != 0)
      throw std::invalid_argument("head dimension " + std::to_string(dim) + " is not a multiple of 8 up to " +
                                  std::to_string(kMaxHeadDim));
  if (block_size < 16 || block_size % 16 != 0) throw std::invalid_argument("block_size must be a multiple of 16");
  return {format_of(format), kv_heads, block_size, side_of(k, k_dim), side_of(v, v_dim)};
}

constexpr int kBits[] = {2, 4, 8};

// A grouped cache: addresses of codes, scales and zero points, then windows, drafts and lengths.
PagedCache make_grouped(int bits, int group, int value_group, int residual, int drafts, int kv_heads, int block_size,
                        int k_dim, int v_dim, nb::tuple k, nb::tuple v, nb::tuple windows, nb::tuple waiting,
                        Address lengths) {
  PagedCache cache = make_cache("f32", kv_heads, block_size, k_dim, v_dim, std::move(k), std::move(v));
  if (std::find(std::begin(kBits), std::end(kBits), bits) == std::end(kBits))
    throw std::invalid_argument("codes have 2, 4 or 8 bits");
  if (group % 8 != 0 || group > 512 || block_size % group != 0 || residual % group != 0 || v_dim % value_group != 0 ||
      value_group % 8 != 0 || value_group > 512)
    throw std::invalid_argument("groups are multiples of 8 up to 512 that divide blocks, window and head");
  cache.format = CacheFormat::grouped;
  const auto floats = [](const nb::tuple& pair, int i) { return pointer<float>(nb::cast<Address>(pair[i])); };
  cache.grouped = {bits,
                   group,
                   value_group,
                   residual,
                   drafts,
                   floats(windows, 0),
                   floats(windows, 1),
                   floats(waiting, 0),
                   floats(waiting, 1),
                   pointer<int32_t>(lengths)};
  return cache;
}

void grouped_write(Stream& stream, const PagedCache& cache, std::shared_ptr<Spans> spans, Address k, long k_stride,
                   Address v, long v_stride) {
  const GroupedWriteArgs args{cache, pointer<const float>(k), k_stride, pointer<const float>(v), v_stride};
  nb::gil_scoped_release release;
  submit_grouped_write(stream, args, std::move(spans));
}

void commit_drafts(const PagedCache& cache, int row, int kept, const std::vector<int32_t>& blocks) {
  int32_t& length = cache.grouped.lengths[row];
  if (kept > length) kernels().attention.commit_drafts(cache, row, blocks.data(), length, kept - length);
  length = kept;
}

void cache_write(Stream& stream, const PagedCache& cache, Address k, long k_stride, Address v, long v_stride,
                 Address slots, long tokens) {
  const CacheWriteArgs args{cache,    pointer<const float>(k), k_stride, pointer<const float>(v),
                            v_stride, pointer<const int64_t>(slots)};
  nb::gil_scoped_release release;
  submit_cache_write(stream, args, tokens);
}

void attention(Stream& stream, const PagedCache& cache, std::shared_ptr<Spans> spans, Address q, long q_stride,
               Address out, int heads, float scale, float softcap, int window, Address k, long k_stride, Address v,
               long v_stride, bool pair_sums) {
  if (spans->block_size != cache.block_size) throw std::invalid_argument("spans and cache differ in block size");
  if (heads % cache.kv_heads != 0 || heads / cache.kv_heads > kSmallTile)
    throw std::invalid_argument("heads must be a multiple of the KV heads, at most " + std::to_string(kSmallTile) +
                                " times as many");
  if ((cache.format == CacheFormat::grouped) != (k != 0 && v != 0))
    throw std::invalid_argument("a grouped cache, and no other, is given the new keys and values");
  const AttentionArgs args{cache,   pointer<const float>(q), q_stride, pointer<float>(out),     heads,    scale,
                           softcap, window,                  pointer<const float>(k), k_stride, pointer<const float>(v),
                           v_stride, pair_sums};
  nb::gil_scoped_release release;
  submit_attention(stream, args, std::move(spans));
}

}  // namespace

void bind_attention(nb::module_& m) {
  nb::class_<Spans>(m, "Spans", "Which tokens of a step belong to which sequence, and where its cache entries lie.")
      .def(nb::init<>())
      .def("set", &set_spans, nb::arg("queries"), nb::arg("keys"), nb::arg("tables"), nb::arg("block_size"),
           nb::arg("rows") = Ints{}, nb::arg("drafts") = Ints{},
           "New tokens, visible entries and blocks of each sequence; for per-sequence stores also its row and how many "
           "of its new tokens are drafts. ValueError where a table is too short.")
      .def_prop_ro("tokens", [](const Spans& self) { return self.tokens; });
  nb::class_<PagedCache>(m, "PagedCache", "Addresses and shapes of a cache layer; the tensors must outlive it.")
      .def("__init__",
           [](PagedCache* self, const std::string& format, int kv_heads, int block_size, int k_dim, int v_dim,
              nb::tuple k, nb::tuple v) {
             new (self) PagedCache(make_cache(format, kv_heads, block_size, k_dim, v_dim, std::move(k), std::move(v)));
           },
           nb::arg("format"), nb::arg("kv_heads"), nb::arg("block_size"), nb::arg("k_dim"), nb::arg("v_dim"),
           nb::arg("k"), nb::arg("v"));
  m.def("grouped_cache", &make_grouped, nb::arg("bits"), nb::arg("group"), nb::arg("value_group"), nb::arg("residual"),
        nb::arg("drafts"), nb::arg("kv_heads"), nb::arg("block_size"), nb::arg("k_dim"), nb::arg("v_dim"), nb::arg("k"),
        nb::arg("v"), nb::arg("windows"), nb::arg("waiting"), nb::arg("lengths"),
        "A PagedCache of grouped codes, windows and drafts; the tensors must outlive it.");
  m.def("grouped_write", &grouped_write, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"), nb::arg("k"),
        nb::arg("k_stride"), nb::arg("v"), nb::arg("v_stride"),
        "An op: stores the new entries of the spans that hold when it runs in a grouped cache.");
  m.def("commit_drafts", &commit_drafts, nb::arg("cache"), nb::arg("row"), nb::arg("kept"), nb::arg("blocks"),
        "The row of a grouped cache now has `kept` entries: those of its drafts that this takes are stored.");
  m.def("cache_write", &cache_write, nb::arg("stream"), nb::arg("cache"), nb::arg("k"), nb::arg("k_stride"),
        nb::arg("v"), nb::arg("v_stride"), nb::arg("slots"), nb::arg("tokens"),
        "An op: stores k, v [tokens, kv_heads, dim] float32 (strides between tokens, in elements) at slots [tokens] "
        "(int64).");
  m.def("attention", &attention, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"), nb::arg("q"),
        nb::arg("q_stride"), nb::arg("out"), nb::arg("heads"), nb::arg("scale"), nb::arg("softcap"), nb::arg("window"),
        nb::arg("k") = 0, nb::arg("k_stride") = 0, nb::arg("v") = 0, nb::arg("v_stride") = 0,
        nb::arg("pair_sums") = false,
        "An op: q [tokens, heads, dim] float32 (stride between tokens, in elements) over the cache of the spans that "
        "hold when it runs: out [tokens, heads * v_dim]. softcap and window: 0 for none. k, v: the new entries, for a grouped "
        "cache. pair_sums: softmax without a maximum, exponentials as mantissa and exponent.");
}

}  // namespace twofold
