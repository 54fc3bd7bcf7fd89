#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "bind.h"
#include "linear.h"
#include "packed_blocks.h"
#include "rounding.h"

namespace nb = nanobind;

namespace twofold {

namespace {

Packed block_format_of(const std::string& name) {
  for (int i = kGgufFormats; i < kPackedFormats; ++i)
    if (name == kLayouts[i].name) return static_cast<Packed>(i);
  throw std::invalid_argument("there is no packed layout for block format '" + name + "'");
}

void check_cols(long cols) {
  if (cols <= 0 || cols % kBlockCols != 0) throw std::invalid_argument("columns are not a multiple of 32");
}

}  // namespace

void bind_blocks(nb::module_& m) {
  m.def("pack_blocks", [](const std::string& format, uintptr_t codes, uintptr_t scales, long rows, long cols,
                          uintptr_t packed) {
    const Packed f = block_format_of(format);
    check_cols(cols);
    nb::gil_scoped_release release;
    pack_blocks(f, pointer<const uint8_t>(codes), pointer<const uint8_t>(scales), rows, cols, pointer<uint8_t>(packed));
  }, nb::arg("format"), nb::arg("codes"), nb::arg("scales"), nb::arg("rows"), nb::arg("cols"), nb::arg("packed"),
     "Rows of a block format, codes and scales apart, to strips of 16 rows.");
  m.def("unpack_blocks", [](const std::string& format, uintptr_t packed, float scale, long rows, long cols,
                            uintptr_t out) {
    const Packed f = block_format_of(format);
    check_cols(cols);
    nb::gil_scoped_release release;
    unpack_blocks(f, pointer<const uint8_t>(packed), scale, rows, cols, pointer<float>(out));
  }, nb::arg("format"), nb::arg("packed"), nb::arg("scale"), nb::arg("rows"), nb::arg("cols"), nb::arg("out"),
     "Strips of a block format to float32, times the scale of the matrix.");
  m.def("block_linear", [](const std::shared_ptr<Stream>& stream, const std::string& format, uintptr_t packed,
                           float scale, long rows, long cols, uintptr_t x, long tokens, uintptr_t bias, uintptr_t y,
                           int largest, float token_scale) {
    check_cols(cols);
    if (largest < 0 || largest > 127) throw std::invalid_argument("codes of activations are at most 127");
    Operands operands{largest == 0 ? Operands::Kind::exact : Operands::Kind::e8m0, largest};
    if (token_scale >= 0.0f) operands = {Operands::Kind::token, 127, token_scale};
    stream->submit(linear(stream, {{block_format_of(format), pointer<const uint8_t>(packed), rows, scale}}, cols,
                          pointer<const float>(x), tokens, pointer<const float>(bias), pointer<float>(y), operands));
  }, nb::arg("stream"), nb::arg("format"), nb::arg("packed"), nb::arg("scale"), nb::arg("rows"), nb::arg("cols"),
     nb::arg("x"), nb::arg("tokens"), nb::arg("bias"), nb::arg("y"), nb::arg("largest"),
     nb::arg("token_scale") = -1.0f, nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] times strips of a block format to y [tokens, rows]. largest: of the integers that activations "
     "are rounded to, in MX blocks; 0 keeps them in float32. token_scale: not negative, they are rounded to int8 with "
     "this scale, or where it is 0 with one that each token has of its own.");
  m.def("round_blocks", [](const std::shared_ptr<Stream>& stream, int block, float largest, int mantissa,
                           float smallest_normal, bool two_levels, uintptr_t x, long tokens, long cols, uintptr_t y) {
    if (block <= 0) throw std::invalid_argument("a block has at least one element");
    stream->submit(round_blocks({block, largest, mantissa, smallest_normal, two_levels}, pointer<const float>(x),
                                tokens, cols, pointer<float>(y)));
  }, nb::arg("stream"), nb::arg("block"), nb::arg("largest"), nb::arg("mantissa"), nb::arg("smallest_normal"),
     nb::arg("two_levels"), nb::arg("x"), nb::arg("tokens"), nb::arg("cols"), nb::arg("y"),
     nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] to the nearest values of a block format (mantissa -1: integers), row by row.");
  m.def("rotate_blocks", [](const std::shared_ptr<Stream>& stream, uintptr_t x, long tokens, long cols,
                            uintptr_t signs, long size, uintptr_t y) {
    if (size <= 0 || (size & (size - 1)) != 0 || cols % size != 0)
      throw std::invalid_argument("columns are not whole blocks of a power of two");
    stream->submit(rotate_blocks(pointer<const float>(x), tokens, cols, pointer<const float>(signs), size,
                                 pointer<float>(y)));
  }, nb::arg("stream"), nb::arg("x"), nb::arg("tokens"), nb::arg("cols"), nb::arg("signs"), nb::arg("size"),
     nb::arg("y"), nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] times signs [size] and a Hadamard matrix, block by block.");
}

}  // namespace twofold
