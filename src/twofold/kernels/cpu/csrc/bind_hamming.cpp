// Attention by Hamming distance as instructions of a stream, and as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>

#include <memory>
#include <stdexcept>
#include <tuple>

#include "attention_kernels.h"
#include "bind.h"
#include "kernels.h"
#include "stream.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using Address = uintptr_t;
using Signs = std::tuple<Address, Address>;  // map and threshold, 0 for none

HammingCache make_cache(Address codes, Address values, int kv_heads, int block_size, int dim, int v_dim) {
  for (int each : {dim, v_dim})
    if (each < 8 || each > kMaxHeadDim || each % 8 != 0)
      throw std::invalid_argument("head dimensions are multiples of 8 up to " + std::to_string(kMaxHeadDim));
  return {pointer<uint8_t>(codes), pointer<uint16_t>(values), kv_heads, block_size, dim, v_dim};
}

HammingSigns signs_of(const Signs& signs) {
  return {pointer<const float>(std::get<0>(signs)), pointer<const float>(std::get<1>(signs))};
}

void hamming_write(Stream& stream, const HammingCache& cache, const Signs& signs, Address k, long k_stride, Address v,
                   long v_stride, Address slots, long tokens) {
  const HammingWriteArgs args{cache,    signs_of(signs),         pointer<const float>(k), k_stride, pointer<const float>(v),
                              v_stride, pointer<const int64_t>(slots)};
  nb::gil_scoped_release release;
  stream.submit({"cache-write", {[args, tokens](int member, int members) {
                   const Share part = share(tokens * args.cache.kv_heads, member, members);
                   kernels().hamming.write(args, part.first, part.last);
                 }}});
}

void hamming_attention(Stream& stream, const HammingCache& cache, std::shared_ptr<Spans> spans, const Signs& signs,
                       Address scale, Address q, long q_stride, Address out, int heads, float softcap, int window, int n,
                       int context) {
  if (spans->block_size != cache.block_size) throw std::invalid_argument("spans and cache differ in block size");
  if (heads % cache.kv_heads != 0 || n < 1 || context < 1)
    throw std::invalid_argument("heads must be a multiple of the KV heads; n and context are positive");
  const HammingArgs args{cache, signs_of(signs), pointer<const float>(scale), pointer<const float>(q), q_stride,
                         pointer<float>(out), heads, softcap, window, n, context};
  nb::gil_scoped_release release;
  const auto queue = std::make_shared<WorkQueue>(stream.threads());
  stream.submit({"attention", {[args, spans, queue](int member, int) {
                   size_t at = 0;
                   queue->each(static_cast<long>(spans->tokens) * args.heads, 1, member, [&](long index, long) {
                     const long token = index / args.heads;
                     if (token < spans->sequences[at].token) at = 0;  // what another member has left comes earlier
                     while (token >= spans->sequences[at].token + spans->sequences[at].queries) ++at;
                     const Sequence& s = spans->sequences[at];
                     const int position = s.keys - s.queries + static_cast<int>(token) - s.token;
                     kernels().hamming.attend(args, spans->blocks.data() + s.table, token, position,
                                              static_cast<int>(index % args.heads));
                   });
                 }}});
}

}  // namespace

void bind_hamming(nb::module_& m) {
  nb::class_<HammingCache>(m, "HammingCache", "Addresses and shapes of a cache of signs; the tensors must outlive it.")
      .def("__init__",
           [](HammingCache* self, Address codes, Address values, int kv_heads, int block_size, int dim, int v_dim) {
             new (self) HammingCache(make_cache(codes, values, kv_heads, block_size, dim, v_dim));
           },
           nb::arg("codes"), nb::arg("values"), nb::arg("kv_heads"), nb::arg("block_size"), nb::arg("dim"),
           nb::arg("v_dim"));
  m.def("hamming_write", &hamming_write, nb::arg("stream"), nb::arg("cache"), nb::arg("signs"), nb::arg("k"),
        nb::arg("k_stride"), nb::arg("v"), nb::arg("v_stride"), nb::arg("slots"), nb::arg("tokens"),
        "An op: stores the signs of k and v [tokens, kv_heads, dim] float32 (strides between tokens, in elements) at "
        "slots [tokens] (int64). signs: addresses of map and threshold, 0 for none.");
  m.def("hamming_attention", &hamming_attention, nb::arg("stream"), nb::arg("cache"), nb::arg("spans"),
        nb::arg("signs"), nb::arg("scale"), nb::arg("q"), nb::arg("q_stride"), nb::arg("out"), nb::arg("heads"),
        nb::arg("softcap"), nb::arg("window"), nb::arg("n"), nb::arg("context"),
        "An op: q [tokens, heads, dim] float32 over the entries of the spans that hold when it runs that differ in the "
        "fewest signs: max(n, n * seen / context) of those that a query sees. out [tokens, heads * v_dim]. softcap and "
        "window: 0 for none.");
}

}  // namespace twofold
