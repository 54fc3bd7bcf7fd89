// Elementwise ops and the scans of sampling, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bind.h"
#include "kernels.h"
#include "sampling.h"
#include "stream.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;
using Floats = const float;

// Elements that one member gets at least: below, the cost of another core's cache lines outweighs the work.
constexpr long kGrain = 256;

// An op of one phase, in which part(first, last) does its part of `count` items.
template <class Part>
void submit(Stream& stream, const char* name, long count, long grain, Part part) {
  stream.submit({name, {[=](int member, int members) {
                   const Share mine = share(count, member, members, grain);
                   if (mine.first < mine.last) part(mine.first, mine.last);
                 }}});
}

void embedding(Stream& stream, uintptr_t ids, long tokens, uintptr_t table, long table_rows, long width, float scale,
               uintptr_t positions, uintptr_t position_table, long position_rows, long offset, uintptr_t y) {
  const EmbeddingArgs args{pointer<const int64_t>(ids), pointer<Floats>(table), table_rows,    width,  scale,
                           pointer<const int64_t>(positions), pointer<Floats>(position_table), position_rows, offset,
                           pointer<float>(y)};
  submit(stream, "embedding", tokens, 1, [=](long first, long last) { kernels().elementwise.embedding(args, first, last); });
}

void submit_norm(Stream& stream, const char* name, const NormArgs& args, long tokens) {
  submit(stream, name, tokens, 1, [=](long first, long last) { kernels().elementwise.norm(args, first, last); });
}

NormKind norm_of(const std::string& name) {
  if (name == "rms") return NormKind::rms;
  if (name == "layer") return NormKind::layer;
  throw std::invalid_argument("unknown norm '" + name + "'; known: rms, layer");
}

void norm(Stream& stream, const std::string& kind, uintptr_t x, uintptr_t weight, uintptr_t bias, float eps, long tokens,
          long width, uintptr_t y) {
  submit_norm(stream, "norm",
              {norm_of(kind), pointer<Floats>(x), nullptr, pointer<Floats>(weight), pointer<Floats>(bias), eps, width,
               pointer<float>(y), nullptr},
              tokens);
}

void add_norm(Stream& stream, const std::string& kind, uintptr_t x, uintptr_t delta, uintptr_t weight, uintptr_t bias,
              float eps, long tokens, long width, uintptr_t normed, uintptr_t total) {
  submit_norm(stream, "add_norm",
              {norm_of(kind), pointer<Floats>(x), pointer<Floats>(delta), pointer<Floats>(weight), pointer<Floats>(bias),
               eps, width, pointer<float>(normed), pointer<float>(total)},
              tokens);
}

void rotary(Stream& stream, uintptr_t qkv, long stride, long tokens, int heads, int kv_heads, int head_dim, int rotated,
            uintptr_t positions, uintptr_t cos, uintptr_t sin, long table_rows, uintptr_t q_norm, uintptr_t k_norm,
            float eps, uintptr_t qk) {
  const RotaryArgs args{pointer<Floats>(qkv),    stride,
                        heads,                   kv_heads,
                        head_dim,                rotated,
                        pointer<const int64_t>(positions), pointer<Floats>(cos),
                        pointer<Floats>(sin),    table_rows,
                        pointer<Floats>(q_norm), pointer<Floats>(k_norm),
                        eps,                     pointer<float>(qk)};
  submit(stream, "rotary", tokens * (heads + kv_heads), 1,
         [=](long first, long last) { kernels().elementwise.rotary(args, first, last); });
}

Activation activation_of(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  throw std::invalid_argument("unknown activation '" + name + "'; known: silu, gelu, gelu_tanh, relu");
}

void activate(Stream& stream, const std::string& name, bool gated, uintptr_t x, long tokens, long width, uintptr_t y) {
  const Activation function = activation_of(name);
  const auto* from = pointer<Floats>(x);
  auto* to = pointer<float>(y);
  submit(stream, "activate", tokens * width, kGrain, [=](long first, long last) {
    kernels().elementwise.activate(function, gated, from, width, to, first, last);
  });
}

void add(Stream& stream, uintptr_t a, uintptr_t b, long count, uintptr_t y) {
  const auto *left = pointer<Floats>(a), *right = pointer<Floats>(b);
  auto* to = pointer<float>(y);
  submit(stream, "add", count, 4 * kGrain,
         [=](long first, long last) { kernels().elementwise.add(left, right, to, first, last); });
}

// A gather is an embedding whose table are the activations.
void gather(Stream& stream, uintptr_t x, long tokens, long width, uintptr_t rows, long count, uintptr_t y) {
  const EmbeddingArgs args{pointer<const int64_t>(rows), pointer<Floats>(x), tokens, width, 1.0f, nullptr, nullptr, 0, 0,
                           pointer<float>(y)};
  submit(stream, "gather", count, 1, [=](long first, long last) { kernels().elementwise.embedding(args, first, last); });
}

void sigmoid_gate(Stream& stream, uintptr_t y, uintptr_t gate, long tokens, long width, uintptr_t z) {
  const auto *from = pointer<Floats>(y), *gates = pointer<Floats>(gate);
  auto* to = pointer<float>(z);
  submit(stream, "sigmoid_gate", tokens, 1,
         [=](long first, long last) { kernels().elementwise.sigmoid_gate(from, gates, width, to, first, last); });
}

void softcap(Stream& stream, uintptr_t x, float cap, long count, uintptr_t y) {
  const auto* from = pointer<Floats>(x);
  auto* to = pointer<float>(y);
  submit(stream, "softcap", count, kGrain,
         [=](long first, long last) { kernels().elementwise.softcap(from, cap, to, first, last); });
}

std::vector<long> argmax(uintptr_t logits, long rows, long vocab) {
  std::vector<long> best(rows);
  for (long r = 0; r < rows; ++r) {
    float value;
    const long found = kernels().elementwise.argmax(pointer<Floats>(logits) + r * vocab, vocab, &value);
    best[r] = found < vocab ? found : 0;
  }
  return best;
}

std::tuple<long, long> topk(uintptr_t logits, long vocab, long k, uintptr_t values, uintptr_t ids) {
  long ties = 0;
  const long count = top_k(pointer<Floats>(logits), vocab, k, pointer<float>(values), pointer<int64_t>(ids), &ties);
  return {count, ties};
}

void exponentials_at(uint32_t seed, uintptr_t ids, long count, uintptr_t out) {
  exponentials(seed, pointer<const int64_t>(ids), count, pointer<float>(out));
}

}  // namespace

void bind_elementwise(nb::module_& m) {
  using nb::literals::operator""_a;
  m.def("embedding", &embedding, "stream"_a, "ids"_a, "tokens"_a, "table"_a, "table_rows"_a, "width"_a, "scale"_a,
        "positions"_a, "position_table"_a, "position_rows"_a, "offset"_a, "y"_a, ReleaseGil(),
        "Rows of a float32 table by int64 ids, times scale, plus rows of a position table where its address is not 0. "
        "A row that does not exist gives NaN.");
  m.def("norm", &norm, "stream"_a, "kind"_a, "x"_a, "weight"_a, "bias"_a, "eps"_a, "tokens"_a, "width"_a, "y"_a,
        ReleaseGil(), "RMSNorm (kind 'rms') or LayerNorm ('layer') of each row; weight and bias may be 0.");
  m.def("add_norm", &add_norm, "stream"_a, "kind"_a, "x"_a, "delta"_a, "weight"_a, "bias"_a, "eps"_a, "tokens"_a,
        "width"_a, "normed"_a, "total"_a, ReleaseGil(), "total = x + delta, and its norm.");
  m.def("rotary", &rotary, "stream"_a, "qkv"_a, "stride"_a, "tokens"_a, "heads"_a, "kv_heads"_a, "head_dim"_a,
        "rotated"_a, "positions"_a, "cos"_a, "sin"_a, "table_rows"_a, "q_norm"_a, "k_norm"_a, "eps"_a, "qk"_a,
        ReleaseGil(), "The query and key heads of fused projections, normed and rotated: qk [tokens, heads + kv_heads, "
        "head_dim]. q_norm and k_norm may be 0, both or none.");
  m.def("activate", &activate, "stream"_a, "function"_a, "gated"_a, "x"_a, "tokens"_a, "width"_a, "y"_a, ReleaseGil(),
        "silu, gelu, gelu_tanh or relu of x [tokens, width], or act(gate) * up of rows [gate, up] where gated.");
  m.def("add", &add, "stream"_a, "a"_a, "b"_a, "count"_a, "y"_a, ReleaseGil(), "y = a + b, `count` elements.");
  m.def("gather", &gather, "stream"_a, "x"_a, "tokens"_a, "width"_a, "rows"_a, "count"_a, "y"_a, ReleaseGil(),
        "`count` rows of x [tokens, width] by int64 indices. A row that does not exist gives NaN.");
  m.def("sigmoid_gate", &sigmoid_gate, "stream"_a, "y"_a, "gate"_a, "tokens"_a, "width"_a, "z"_a, ReleaseGil(),
        "z = sigmoid(gate) * y, one gate per row.");
  m.def("softcap", &softcap, "stream"_a, "x"_a, "cap"_a, "count"_a, "y"_a, ReleaseGil(),
        "y = cap * tanh(x / cap), `count` elements.");
  m.def("argmax", &argmax, "logits"_a, "rows"_a, "vocab"_a, ReleaseGil(),
        "The first index of the largest element of each row. NaN is never chosen; a row without any element above -inf "
        "gives 0.");
  m.def("topk", &topk, "logits"_a, "vocab"_a, "k"_a, "values"_a, "ids"_a, ReleaseGil(),
        "The k largest of one row, largest first and lower index first among equals, to float32 values and int64 ids. "
        "Returns how many there are (NaN and -inf are left out), and how many elements more equal the last of them.");
  m.def("exponentials", &exponentials_at, "seed"_a, "ids"_a, "count"_a, "out"_a, ReleaseGil(),
        "Elements `ids` (int64) of the sequence of float32 exponential variables that torch's CPU generator gives for a "
        "seed.");
}

}  // namespace twofold
