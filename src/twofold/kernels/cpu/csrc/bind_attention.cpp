// The geometry of a step, the paged cache and attention over it, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "attention.h"
#include "bind.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using Ints = std::vector<int>;

void set_spans(Spans& spans, const Ints& queries, const Ints& keys, nb::sequence tables, int block_size) {
  const size_t count = queries.size();
  if (keys.size() != count || nb::len(tables) != count)
    throw std::invalid_argument("queries, keys and tables must have one element per sequence");
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
    spans.add(queries[i], keys[i], table);
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

void cache_write(Stream& stream, const PagedCache& cache, Address k, long k_stride, Address v, long v_stride,
                 Address slots, long tokens) {
  const CacheWriteArgs args{cache,    pointer<const float>(k), k_stride, pointer<const float>(v),
                            v_stride, pointer<const int64_t>(slots)};
  nb::gil_scoped_release release;
  submit_cache_write(stream, args, tokens);
}

void attention(Stream& stream, const PagedCache& cache, std::shared_ptr<Spans> spans, Address q, long q_stride,
               Address out, int heads, float scale, float softcap, int window) {
  if (spans->block_size != cache.block_size) throw std::invalid_argument("spans and cache differ in block size");
  if (heads % cache.kv_heads != 0 || heads / cache.kv_heads > kSmallTile)
    throw std::invalid_argument("heads must be a multiple of the KV heads, at most " + std::to_string(kSmallTile) +
                                " times as many");
  const AttentionArgs args{cache, pointer<const float>(q), q_stride, pointer<float>(out),
                           heads, scale,                   softcap,  window};
  nb::gil_scoped_release release;
  submit_attention(stream, args, std::move(spans));
}

}  // namespace

void bind_attention(nb::module_& m) {
  nb::class_<Spans>(m, "Spans", "Which tokens of a step belong to which sequence, and where its cache entries lie.")
      .def(nb::init<>())
      .def("set", &set_spans, nb::arg("queries"), nb::arg("keys"), nb::arg("tables"), nb::arg("block_size"),
           "New tokens, visible entries and blocks of each sequence. ValueError where a table is too short.")
      .def_prop_ro("tokens", [](const Spans& self) { return self.tokens; });
  nb::class_<PagedCache>(m, "PagedCache", "Addresses and shapes of a cache layer; the tensors must outlive it.")
      .def("__init__",
           [](PagedCache* self, const std::string& format, int kv_heads, int block_size, int k_dim, int v_dim,
              nb::tuple k, nb::tuple v) {
             new (self) PagedCache(make_cache(format, kv_heads, block_size, k_dim, v_dim, std::move(k), std::move(v)));
           },
           nb::arg("format"), nb::arg("kv_heads"), nb::arg("block_size"), nb::arg("k_dim"), nb::arg("v_dim"),
           nb::arg("k"), nb::arg("v"));
  m.def("cache_write", &cache_write, nb::arg("stream"), nb::arg("cache"), nb::arg("k"), nb::arg("k_stride"),
        nb::arg("v"), nb::arg("v_stride"), nb::arg("slots"), nb::arg("tokens"),
        "An op: stores k, v [tokens, kv_heads, dim] float32 (strides between tokens, in elements) at slots [tokens] "
        "(int64).");
  m.def("attention", &attention, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"), nb::arg("q"),
        nb::arg("q_stride"), nb::arg("out"), nb::arg("heads"), nb::arg("scale"), nb::arg("softcap"), nb::arg("window"),
        "An op: q [tokens, heads, dim] float32 (stride between tokens, in elements) over the cache of the spans that "
        "hold when it runs: out [tokens, heads * v_dim]. softcap and window: 0 for none.");
}

}  // namespace twofold
