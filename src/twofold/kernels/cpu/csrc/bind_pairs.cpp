#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "bind.h"
#include "linear.h"
#include "pairs.h"

namespace nb = nanobind;

namespace twofold {

namespace {

struct Named {
  const char* name;
  Pairs type;
  Packed format;
};
constexpr Named kNamed[] = {{"ovp-int4", Pairs::int4, Packed::ovp_int4},
                            {"ovp-flint4", Pairs::flint4, Packed::ovp_flint4},
                            {"ovp-int8", Pairs::int8, Packed::ovp_int8}};

const Named& named(const std::string& name) {
  for (const Named& one : kNamed)
    if (name == one.name) return one;
  throw std::invalid_argument("there are no outlier-victim pairs called '" + name + "'");
}

void check(long rows, long cols) {
  if (rows <= 0 || rows % kStripRows != 0 || cols <= 0 || cols % kBlockCols != 0)
    throw std::invalid_argument("rows are not a multiple of 16, or columns not of 32");
}

}  // namespace

void bind_pairs(nb::module_& m) {
  m.def("encode_pairs", [](const std::string& name, uintptr_t x, uintptr_t scales, long rows, long cols,
                           uintptr_t codes) {
    if (cols % 2 != 0) throw std::invalid_argument("columns are not whole pairs");
    const Pairs type = named(name).type;
    nb::gil_scoped_release release;
    encode_pairs(type, pointer<const float>(x), pointer<const float>(scales), rows, cols, pointer<uint8_t>(codes));
  }, nb::arg("name"), nb::arg("x"), nb::arg("scales"), nb::arg("rows"), nb::arg("cols"), nb::arg("codes"),
     "Rows of float32, in units of their scales, to codes of outlier-victim pairs.");
  m.def("pair_errors", [](const std::string& name, uintptr_t x, uintptr_t scales, long rows, long cols,
                          uintptr_t errors) {
    if (cols % 2 != 0) throw std::invalid_argument("columns are not whole pairs");
    const Pairs type = named(name).type;
    nb::gil_scoped_release release;
    pair_errors(type, pointer<const float>(x), pointer<const float>(scales), rows, cols, pointer<float>(errors));
  }, nb::arg("name"), nb::arg("x"), nb::arg("scales"), nb::arg("rows"), nb::arg("cols"), nb::arg("errors"),
     "Mean squared error of each row rounded to outlier-victim pairs in units of its scale.");
  m.def("pack_pairs", [](const std::string& name, uintptr_t codes, long rows, long cols, uintptr_t packed) {
    check(rows, cols);
    const Pairs type = named(name).type;
    nb::gil_scoped_release release;
    pack_pairs(type, pointer<const uint8_t>(codes), rows, cols, pointer<uint8_t>(packed));
  }, nb::arg("name"), nb::arg("codes"), nb::arg("rows"), nb::arg("cols"), nb::arg("packed"),
     "Rows of outlier-victim pairs to strips of 16 rows.");
  m.def("unpack_pairs", [](const std::string& name, uintptr_t packed, uintptr_t scales, long rows, long cols,
                           uintptr_t out) {
    check(rows, cols);
    const Pairs type = named(name).type;
    nb::gil_scoped_release release;
    unpack_pairs(type, pointer<const uint8_t>(packed), pointer<const float>(scales), rows, cols, pointer<float>(out));
  }, nb::arg("name"), nb::arg("packed"), nb::arg("scales"), nb::arg("rows"), nb::arg("cols"), nb::arg("out"),
     "Strips of outlier-victim pairs to their values in float32, times a scale per row.");
  m.def("pair_linear", [](const std::shared_ptr<Stream>& stream, const std::string& name, uintptr_t packed,
                          uintptr_t scales, long rows, long cols, uintptr_t x, long tokens, uintptr_t bias, uintptr_t y,
                          float scale) {
    check(rows, cols);
    const Packed format = named(name).format;
    if (scale > 0.0f && format != Packed::ovp_int4)
      throw std::invalid_argument("only pairs of int4 are multiplied as integers");
    Operands operands{scale > 0.0f ? Operands::Kind::pairs : Operands::Kind::exact};
    operands.scale = scale;
    Segment segment{format, pointer<const uint8_t>(packed), rows};
    segment.row_scales = pointer<const float>(scales);
    stream->submit(linear(stream, {segment}, cols, pointer<const float>(x), tokens, pointer<const float>(bias),
                          pointer<float>(y), operands));
  }, nb::arg("stream"), nb::arg("name"), nb::arg("packed"), nb::arg("scales"), nb::arg("rows"), nb::arg("cols"),
     nb::arg("x"), nb::arg("tokens"), nb::arg("bias"), nb::arg("y"), nb::arg("scale"),
     nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] times strips of outlier-victim pairs to y [tokens, rows]. scale: above 0, activations are "
     "rounded to pairs of int4 in units of it and multiplied as integers; else they stay float32.");
  m.def("round_pairs", [](const std::shared_ptr<Stream>& stream, const std::string& name, float scale, uintptr_t x,
                          long tokens, long cols, uintptr_t y) {
    if (cols <= 0 || cols % kBlockCols != 0) throw std::invalid_argument("columns are not a multiple of 32");
    if (!(scale > 0.0f)) throw std::invalid_argument("a scale is positive");
    stream->submit(round_pairs(named(name).type, scale, pointer<const float>(x), tokens, cols, pointer<float>(y)));
  }, nb::arg("stream"), nb::arg("name"), nb::arg("scale"), nb::arg("x"), nb::arg("tokens"), nb::arg("cols"),
     nb::arg("y"), nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] to the nearest outlier-victim pairs in units of `scale`.");
}

}  // namespace twofold
