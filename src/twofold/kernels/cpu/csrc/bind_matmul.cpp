#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

#include "bind.h"
#include "kernels.h"
#include "linear.h"
#include "packed.h"

namespace nb = nanobind;

namespace twofold {

namespace {

Packed format_of(const std::string& name) {
  for (int i = 0; i < kPackedFormats; ++i)
    if (name == kLayouts[i].name) return static_cast<Packed>(i);
  throw std::invalid_argument("there is no packed layout for format '" + name + "'");
}

Packed gguf_format_of(const std::string& name) {
  const Packed format = format_of(name);
  if (static_cast<int>(format) >= kGgufFormats) throw std::invalid_argument("'" + name + "' is no format of GGUF");
  return format;
}

void check_cols(Packed format, long cols) {
  if (cols <= 0 || cols % layout(format).source_cols != 0)
    throw std::invalid_argument("columns are not whole blocks of the format");
}

using SegmentTuple = std::tuple<std::string, uintptr_t, long>;

std::vector<Segment> segments_of(const std::vector<SegmentTuple>& given) {
  std::vector<Segment> out;
  for (const auto& [format, data, rows] : given) out.push_back({format_of(format), pointer<const uint8_t>(data), rows});
  return out;
}

}  // namespace

void bind_matmul(nb::module_& m) {
  m.def("packed_formats", [] {
    std::vector<std::string> names;
    for (const auto& l : kLayouts) names.emplace_back(l.name);
    return names;
  }, "Formats that have a packed layout.");
  m.def("packed_bytes", [](const std::string& format, long rows, long cols) {
    const Packed f = format_of(format);
    check_cols(f, cols);
    return static_cast<size_t>((rows + kStripRows - 1) / kStripRows) * strip_bytes(f, cols);
  }, nb::arg("format"), nb::arg("rows"), nb::arg("cols"), "Bytes of a packed [rows, cols] matrix.");
  m.def("pack", [](const std::string& format, uintptr_t source, long rows, long cols, uintptr_t packed) {
    const Packed f = gguf_format_of(format);
    check_cols(f, cols);
    nb::gil_scoped_release release;
    pack(f, pointer<const uint8_t>(source), rows, cols, pointer<uint8_t>(packed));
  }, nb::arg("format"), nb::arg("source"), nb::arg("rows"), nb::arg("cols"), nb::arg("packed"),
     "GGUF blocks to strips of 16 rows.");
  m.def("unpack", [](const std::string& format, uintptr_t packed, long rows, long cols, uintptr_t out) {
    const Packed f = gguf_format_of(format);
    check_cols(f, cols);
    nb::gil_scoped_release release;
    for (long r = 0; r < rows; ++r)
      unpack_row(f, pointer<const uint8_t>(packed), cols, r, pointer<float>(out) + r * cols);
  }, nb::arg("format"), nb::arg("packed"), nb::arg("rows"), nb::arg("cols"), nb::arg("out"),
     "Strips to float32, to the last bit what the GGUF blocks mean.");
  m.def("linear", [](const std::shared_ptr<Stream>& stream, const std::vector<SegmentTuple>& segments, long cols,
                     uintptr_t x, long tokens, uintptr_t bias, uintptr_t y, bool exact) {
    stream->submit(linear(stream, segments_of(segments), cols, pointer<const float>(x), tokens,
                          pointer<const float>(bias), pointer<float>(y),
                          {exact ? Operands::Kind::exact : Operands::Kind::int8}));
  }, nb::arg("stream"), nb::arg("segments"), nb::arg("cols"), nb::arg("x"), nb::arg("tokens"), nb::arg("bias"),
     nb::arg("y"), nb::arg("exact"), nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] times packed segments (format, address, rows) to y [tokens, rows].");
  m.def("dense_linear", [](const std::shared_ptr<Stream>& stream, uintptr_t w, long rows, long cols, uintptr_t x,
                           long tokens, uintptr_t bias, uintptr_t y) {
    stream->submit(dense_linear(*stream, pointer<const float>(w), rows, cols, pointer<const float>(x), tokens,
                                pointer<const float>(bias), pointer<float>(y)));
  }, nb::arg("stream"), nb::arg("w"), nb::arg("rows"), nb::arg("cols"), nb::arg("x"), nb::arg("tokens"),
     nb::arg("bias"), nb::arg("y"), nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] times float32 W [rows, cols] to y [tokens, rows].");
  m.def("packed_rows", [](const std::shared_ptr<Stream>& stream, const std::string& format, uintptr_t table, long cols,
                          uintptr_t ids, long tokens, float scale, uintptr_t y) {
    stream->submit(packed_rows(gguf_format_of(format), pointer<const uint8_t>(table), cols, pointer<const int64_t>(ids),
                               tokens, scale, pointer<float>(y)));
  }, nb::arg("stream"), nb::arg("format"), nb::arg("table"), nb::arg("cols"), nb::arg("ids"), nb::arg("tokens"),
     nb::arg("scale"), nb::arg("y"), nb::call_guard<nb::gil_scoped_release>(),
     "Rows of a packed table by int64 ids, times scale.");
}

}  // namespace twofold
